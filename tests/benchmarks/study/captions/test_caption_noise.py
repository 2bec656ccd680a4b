"""Captions are swapped as the validation of the estimate states."""

from benchmarks.study.captions.caption_noise import swap


def test_a_share_of_the_captions_is_exchanged_and_none_is_lost():
    captions = [str(number) for number in range(1000)]
    found = swap(captions, 0.5, seed=0)
    assert sorted(found) == sorted(captions)
    assert 0.45 < sum(a != b for a, b in zip(captions, found, strict=True)) / 1000 < 0.55
    assert swap(captions, 0.0, seed=0) == captions
