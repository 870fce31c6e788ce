"""What a link of the audit chain is made of, and that nothing of it can be changed unseen."""

import hashlib
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st

from acequia.layers import anchor_key
from acequia_auditor.chain import Anchor, genesis, link

CHAIN = UUID("0b5e6c1e-3d7a-5c1f-9a53-2f1b7c0d4e11")
HASHES = st.binary(min_size=32, max_size=32)
LINKS = st.tuples(HASHES, st.uuids(), st.text())


def test_a_link_is_the_sha256_of_the_hash_before_the_event_id_and_the_text():
    before, event, body = genesis(CHAIN), UUID(int=7), '{"ñ": 1}'
    assert link(before, event, body) == hashlib.sha256(before + event.bytes + body.encode()).digest()


def test_two_chains_begin_differently():
    assert genesis(CHAIN) != genesis(UUID(int=1))


@given(LINKS, LINKS)
def test_links_that_differ_in_anything_have_different_hashes(one, other):
    assume(one != other)
    assert link(*one) != link(*other)


@given(st.lists(st.integers(1, 10**12 - 1), unique=True))
def test_keys_of_anchors_have_the_order_of_their_records(seqs):
    assert sorted(anchor_key(CHAIN, seq) for seq in seqs) == [anchor_key(CHAIN, seq) for seq in sorted(seqs)]


def test_an_anchor_is_read_as_it_was_written():
    anchor = Anchor(
        chain=CHAIN, seq=3, hash="0f" * 32, event_id=UUID(int=7), anchored_at="2025-12-20T12:12:09Z", host="h"
    )
    assert Anchor.model_validate_json(anchor.model_dump_json()) == anchor
    assert anchor.key == f"anchors/{CHAIN}/000000000003.json"
