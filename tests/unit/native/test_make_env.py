import make_env


def test_it_writes_different_random_passwords_that_only_the_owner_reads(tmp_path):
    path, other = tmp_path / ".env", tmp_path / "other"
    assert make_env.main(path) == 0
    assert make_env.main(other) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    passwords = [
        line.partition("=")[2]
        for file in (path, other)
        for line in file.read_text().splitlines()
        if "PASSWORD=" in line or "SECRET_KEY=" in line
    ]
    assert len(passwords) == len(set(passwords)) == 10
    assert min(map(len, passwords)) >= 32


def test_an_env_that_is_there_stays_as_it_is(tmp_path):
    path = tmp_path / ".env"
    make_env.main(path)
    written = path.read_text()
    assert make_env.main(path) == 0
    assert path.read_text() == written


def test_what_an_env_of_an_earlier_version_lacks_is_named(tmp_path, capsys):
    path = tmp_path / ".env"
    path.write_text("MINIO_SECRET_KEY=mine\nRABBITMQ_PASSWORD=mine\n# PG_PASSWORD=old\nPG_PASSWORD=mine\n")
    assert make_env.main(path) == 1
    assert "lacks PG_MIGRATION_PASSWORD, ACEQUIA_LAKEHOUSE_PASSWORD:" in capsys.readouterr().err
    assert "MIGRATION" not in path.read_text()
