import pytest

from acequia.events import ErrorRecord, Kind, Status
from acequia.layers import Layer
from acequia_auditor.write import store_records


async def state(client, run_id) -> tuple[str, bool]:
    run = (await client.get(f"/runs/{run_id}")).raise_for_status().json()
    return run["state"], run["finished"]


async def test_a_run_goes_from_accepted_to_done_when_its_model_is_evaluated(database, client, tale, training):
    one, plan = tale(), training()
    told = []
    for record in (
        one.accepted(),
        one.ingested(10, 5, unparsable=2),
        one.transformed(1, rows=10, duplicate=1, broken=2),
        one.transformed(2, rows=5),
        plan.planned(one.silver(1, 7), one.silver(2, 5), parents=(one.run_id,)),
        plan.trained(one.silver(1, 7), one.silver(2, 5), parents=(one.run_id,)),
        plan.evaluated(),
    ):
        await store_records(database, [record])
        told.append(await state(client, one.run_id))
    assert told == [("accepted", False)] + [("running", False)] * 5 + [("done", True)]

    run = (await client.get(f"/runs/{one.run_id}")).json()
    counts = {name: run[name] for name in ("rows_in", "rows_raw", "rows_silver", "rows_duplicate", "rows_quarantined")}
    assert counts == {"rows_in": 17, "rows_raw": 15, "rows_silver": 12, "rows_duplicate": 1, "rows_quarantined": 4}
    assert run["quarantined_by_rule"] == {"unparsable": 2, "bytes_not_negative": 2}
    assert run["model"] == plan.model
    assert run["metrics"] == {"roc_auc": 0.97}
    assert run["artifacts"]["raw"] == [one.raw(1).uri, one.raw(2).uri]
    assert run["artifacts"]["silver"] == [one.silver(1).uri, one.silver(2).uri]
    assert plan.card().uri in run["artifacts"]["models"]
    assert len(run["artifacts"]["eval"]) == 1
    assert {stage: [e["status"] for e in events] for stage, events in run["stages"].items()} == {
        "ingestor": ["ACCEPTED", "SUCCESS"],
        "transformer": ["SUCCESS", "SUCCESS"],
        "trainer": ["SUCCESS"],
        "evaluator": ["SUCCESS"],
    }
    assert await state(client, plan.run_id) == ("done", True)


async def test_records_in_any_order_tell_the_same(database, client, tale, training):
    one, plan = tale(), training()
    records = [
        one.accepted(),
        one.ingested(10),
        one.transformed(),
        plan.trained(one.silver(), parents=(one.run_id,)),
        plan.evaluated(),
    ]
    for record in reversed(records):
        await store_records(database, [record])
    assert await state(client, one.run_id) == ("done", True)


async def test_a_training_that_covers_only_one_of_two_objects_does_not_finish_the_run(database, client, tale, training):
    one, first, second = tale(), training(), training(number=2)
    await store_records(database, [one.accepted(), one.ingested(10, 5), one.transformed(1), one.transformed(2, rows=5)])
    await store_records(database, [first.trained(one.silver(1)), first.evaluated()])
    assert await state(client, one.run_id) == ("running", False)
    await store_records(database, [second.trained(one.silver(2, 5)), second.evaluated()])
    assert await state(client, one.run_id) == ("done", True)


async def test_a_finished_run_stays_finished_when_a_later_training_reads_its_data_again(
    database, client, tale, training
):
    one, first, later = tale(), training(), training(number=2)
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed()])
    await store_records(database, [first.trained(one.silver()), first.evaluated()])
    later.now = first.now
    await store_records(database, [later.trained(one.silver())])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["model"]) == ("done", first.model)


async def test_a_rejected_source_ends_the_run_with_all_its_rows_in_quarantine(database, client, tale):
    one = tale()
    await store_records(database, [one.accepted(), one.source_rejected(7)])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["finished"]) == ("rejected", True)
    assert (run["rows_in"], run["rows_silver"], run["rows_quarantined"]) == (7, 0, 7)
    assert run["quarantined_by_rule"] == {"truncated": 7}
    assert run["error"]["message"] == "it ends in the middle"


async def test_a_run_of_which_no_object_survives_is_rejected(database, client, tale):
    one = tale()
    await store_records(database, [one.accepted(), one.ingested(10), one.part_rejected(1, 10)])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["rows_quarantined"]) == ("rejected", 10)
    assert run["quarantined_by_rule"] == {"bytes_not_negative": 10}


async def test_a_run_with_one_rejected_object_is_done_when_the_others_are(database, client, tale, training):
    one, plan = tale(), training()
    await store_records(
        database, [one.accepted(), one.ingested(10, 10), one.part_rejected(1, 10), one.transformed(2, duplicate=3)]
    )
    assert await state(client, one.run_id) == ("running", False)
    await store_records(database, [plan.trained(one.silver(2, 7)), plan.evaluated()])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert run["state"] == "done"
    assert run["rows_in"] == run["rows_silver"] + run["rows_duplicate"] + run["rows_quarantined"] == 20


async def test_a_training_that_is_rejected_ends_the_run_without_a_model(database, client, tale, training):
    one, plan = tale(), training()
    refused = plan.trained(one.silver()).model_copy(
        update={
            "status": Status.REJECTED,
            "outputs": (),
            "error": ErrorRecord(type="RejectedWhole", message="too few rows", rule="too_few_rows"),
        }
    )
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed(), refused])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["finished"], run["model"]) == ("rejected", True, None)
    assert run["error"]["rule"] == "too_few_rows"


async def test_the_same_content_again_ends_the_run_with_the_first_runs_numbers(database, client, tale, training):
    one, again, plan = tale(), tale(), training()
    await store_records(
        database,
        [one.accepted(), one.ingested(10, unparsable=1), one.transformed(duplicate=2), plan.trained(one.silver())],
    )
    await store_records(database, [plan.evaluated(), again.accepted(), again.same_content(one.run_id)])
    run = (await client.get(f"/runs/{again.run_id}")).json()
    assert (run["state"], run["finished"], run["same_as"]) == ("same_content", True, str(one.run_id))
    assert (run["rows_in"], run["rows_silver"], run["rows_duplicate"], run["rows_quarantined"]) == (11, 8, 2, 1)
    assert (run["model"], run["metrics"]) == (plan.model, {"roc_auc": 0.97})


async def test_a_dead_object_fails_the_run_until_a_replay_brings_it_through(database, client, tale, training):
    one, plan = tale(), training()
    await store_records(database, [one.accepted(), one.ingested(10), one.part_dead()])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["finished"]) == ("failed", True)
    assert run["error"]["message"] == "KeyError: 'x'"
    await store_records(database, [one.transformed(), plan.trained(one.silver()), plan.evaluated()])
    assert await state(client, one.run_id) == ("done", True)


async def test_a_command_that_died_fails_the_run(database, client, tale):
    one = tale()
    dead = one.record(Kind.DEAD, Status.DEAD, "ingestor", str(one.run_id))
    await store_records(database, [one.accepted(), dead])
    assert await state(client, one.run_id) == ("failed", True)


async def test_a_plan_that_died_fails_the_run(database, client, tale, training):
    one, plan = tale(), training()
    # a plan's dead letter names its inputs by uri alone
    inputs = (one.silver().model_copy(update={"etag": ""}),)
    dead = plan.record(Kind.DEAD, Status.DEAD, "trainer", "plans/1", inputs=inputs, variant="v1-aaaaaa")
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed(), dead])
    assert await state(client, one.run_id) == ("failed", True)
    assert await state(client, plan.run_id) == ("failed", True)


async def test_a_source_that_was_replaced_before_it_was_read_fails_the_run(database, client, tale):
    one = tale()
    gone = one.record(Kind.NOTE, Status.SUPERSEDED, "ingestor", "s3://x", message_id="m")
    await store_records(database, [one.accepted(), gone])
    assert await state(client, one.run_id) == ("failed", True)
    await store_records(database, [one.ingested(10)])
    assert await state(client, one.run_id) == ("running", False)


async def test_a_failed_attempt_alone_does_not_end_the_run(database, client, tale):
    one = tale()
    note = one.record(Kind.NOTE, Status.FAILED, "transformer", one.raw().uri, inputs=(one.raw(),), attempt=2)
    await store_records(database, [one.accepted(), one.ingested(10), note])
    assert await state(client, one.run_id) == ("running", False)


async def test_the_rows_of_an_object_that_two_versions_transformed_are_counted_once(database, client, tale):
    one = tale()
    old, new = one.transformed(duplicate=1), one.transformed(duplicate=2, variant="v2-aaaaaa")
    await store_records(database, [one.accepted(), one.ingested(10), old, new])
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["rows_silver"], run["rows_duplicate"]) == (8, 2)


async def test_an_unknown_run_is_a_problem_that_says_so(client, tale):
    run_id = tale().run_id
    answer = await client.get(f"/runs/{run_id}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert str(run_id) in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/runs/x", "/runs?limit=0", "/runs?before=yesterday", "/artifacts?layer=gold"])
async def test_a_request_that_makes_no_sense_is_a_problem_that_names_the_field(client, path):
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert any(field in answer.json()["detail"] for field in ("run_id", "limit", "before", "layer"))


async def test_while_postgresql_is_away_the_answer_is_503_with_a_time_to_retry(database, client):
    await database.close()
    database._host, database._settings = "127.0.0.1", database._settings.model_copy(update={"port": 1})
    answer = await client.get("/runs")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 0


async def test_runs_are_listed_newest_first_by_pages_and_by_state(database, client, tale):
    runs = []
    for n in range(5):
        one = tale()
        one.now = one.now.replace(hour=13 + n)
        runs.append(one)
        await store_records(database, [one.accepted(file=f"{n}.log")])
    await store_records(database, [runs[3].source_rejected(), runs[1].source_rejected()])
    first = (await client.get("/runs", params={"limit": 3})).json()
    assert [run["source"] for run in first["runs"]] == ["4.log", "3.log", "2.log"]
    second = (await client.get("/runs", params={"limit": 3, "before": first["next"]})).json()
    assert ([run["source"] for run in second["runs"]], second["next"]) == (["1.log", "0.log"], None)
    rejected = (await client.get("/runs", params={"limit": 2, "status": "rejected"})).json()
    assert [run["source"] for run in rejected["runs"]] == ["3.log", "1.log"]
    assert (await client.get("/runs", params={"dataset": "other"})).json()["runs"] == []


async def test_a_trace_of_a_model_shows_its_sources_and_its_evaluation(database, client, tale, training):
    one, other, plan = tale(), tale(), training()
    landing = one.obj(Layer.LANDING, "network_events/conn.log")
    await store_records(
        database,
        [
            one.accepted(file="conn.log"),
            one.ingested(10, inputs=(landing,)),
            one.transformed(),
            other.ingested(5),
            other.transformed(1, rows=5),
            plan.trained(one.silver(), parents=(one.run_id,)),
            plan.evaluated(),
        ],
    )
    expected = {landing.uri, one.raw().uri, one.silver().uri, plan.card().uri}
    for node in (plan.model, plan.card().uri):
        trace = (await client.get("/lineage", params={"node": node})).raise_for_status().json()
        uris = {n["uri"] for n in trace["nodes"]}
        assert expected < uris
        assert not uris & {other.raw().uri, other.silver().uri}
        assert [n["depth"] for n in trace["nodes"]] == [-3, -2, -1, 0, 1]
    card = next(n for n in trace["nodes"] if n["uri"] == plan.card().uri)
    assert (card["stage"], card["parameters"], card["run_id"]) == ("trainer", {"trees": 100}, str(plan.run_id))
    assert trace["nodes"][-1]["metrics"] == {"roc_auc": 0.97}
    edges = {(e["input"], e["output"], e["stage"]) for e in trace["edges"]}
    assert (landing.uri, one.raw().uri, "ingestor") in edges
    assert (one.silver().uri, plan.card().uri, "trainer") in edges

    down = (await client.get("/lineage", params={"node": landing.uri})).json()
    assert max(n["depth"] for n in down["nodes"]) == 4
    of_run = (await client.get("/lineage", params={"node": str(one.run_id)})).json()
    assert expected < {n["uri"] for n in of_run["nodes"]}


async def test_objects_that_were_made_from_each_other_in_a_circle_are_listed_once(database, client, tale):
    one = tale()
    a, b = one.silver(1), one.silver(2)
    forth = one.record(Kind.OUTCOME, Status.SUCCESS, "transformer", "forth", inputs=(a,), outputs=(b,))
    back = one.record(Kind.OUTCOME, Status.SUCCESS, "transformer", "back", inputs=(b,), outputs=(a,))
    await store_records(database, [forth, back])
    trace = (await client.get("/lineage", params={"node": a.uri})).json()
    assert sorted(n["uri"] for n in trace["nodes"]) == sorted([a.uri, b.uri])


async def test_a_trace_of_nothing_known_is_a_problem(client):
    answer = await client.get("/lineage", params={"node": "s3://nowhere/x"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_artifacts_are_found_by_layer_dataset_and_run(database, client, tale):
    one, other = tale(), tale()
    await store_records(database, [one.ingested(10, 5), one.transformed(), other.ingested(3)])
    raw = (await client.get("/artifacts", params={"layer": "raw"})).json()["artifacts"]
    assert len(raw) == 3
    mine = (await client.get("/artifacts", params={"run_id": str(one.run_id)})).json()["artifacts"]
    assert {a["uri"] for a in mine} == {one.raw(1).uri, one.raw(2).uri, one.silver().uri}
    assert (await client.get("/artifacts", params={"dataset": "other"})).json()["artifacts"] == []
    assert len((await client.get("/artifacts", params={"limit": 1})).json()["artifacts"]) == 1


async def test_the_openapi_document_has_an_example_of_a_run(client):
    document = (await client.get("/openapi.json")).json()
    assert {"/runs", "/runs/{run_id}", "/artifacts", "/lineage", "/dead-letters"} <= set(document["paths"])
    assert document["components"]["schemas"]["RunDetail"]["examples"][0]["state"] == "done"
    assert "application/problem+json" in document["paths"]["/runs/{run_id}"]["get"]["responses"]["404"]["content"]
