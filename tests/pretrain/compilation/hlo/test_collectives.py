"""Collectives counted in programs for NVIDIA GPUs. Programs for TPUs: test_job.py."""

from pretrain.compilation.hlo.collectives import Traffic, count_collectives
from pretrain.compilation.hlo.program import parse_program

# Lines of a program that JAX 0.10.2 compiled for eight H100s, shortened: unrelated collectives share channel 1.
PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}

%body (p: (s32[], f32[1,4])) -> (s32[], f32[1,4]) {
  %permute-start = ((f32[1,4]{1,0}), (f32[1,4]{1,0})) collective-permute-start(%g), channel_id=1
  %permute-done = (f32[1,4]{1,0}) collective-permute-done(%permute-start)
}

%cond (p: (s32[], f32[1,4])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%wrapped (p: bf16[8]) -> bf16[64] {
  ROOT %all-to-all.1 = bf16[64]{0} all-to-all(%p), channel_id=1
}

ENTRY %main.2 (a: f32[2,4]) -> f32[8,4] {
  %gather-start = ((s32[4]{0}, /*i=1*/bf16[1,16]), (s32[32]{0}, /*i=1*/bf16[8,16])) all-gather-start(%b), channel_id=1
  %gather-done = (s32[32]{0}, bf16[8,16]{1,0}) all-gather-done(%gather-start)
  %gather-start.1 = (f32[2]{0}, f32[16]{0}) all-gather-start(%e), channel_id=1, dimensions={0}
  %gather-done.1 = f32[16]{0} all-gather-done(%gather-start.1)
  %reduce-start = (f32[20]{0}, bf16[6]{0}) all-reduce-start(%f, %h), channel_id=1, to_apply=%add
  %reduce-done = (f32[20]{0}, bf16[6]{0}) all-reduce-done(%reduce-start)
  %scatter-start = ((f32[8,4,16]{2,1,0}), f32[1,4,16]{2,1,0}) reduce-scatter-start(%k), channel_id=1, to_apply=%add
  %scatter-done = f32[1,4,16]{2,1,0} reduce-scatter-done(%scatter-start)
  %w = (s32[], f32[1,4]{1,0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %async-start = ((bf16[8]{0}), bf16[64]{0}) async-start(%q), calls=%wrapped
  ROOT %async-done = bf16[64]{0} async-done(%async-start), calls=%wrapped
}
"""


def test_collectives_of_gpus_that_share_a_channel_count_each_and_pairs_of_start_and_done_once():
    assert count_collectives(parse_program(PROGRAM)) == {
        "all-gather": Traffic(2, (32 * 4 + 128 * 2) + 16 * 4),
        "all-reduce": Traffic(1, 20 * 4 + 6 * 2),
        "reduce-scatter": Traffic(1, 8 * 64 * 4),
        "all-to-all": Traffic(1, 64 * 2),
        "collective-permute": Traffic(7, 7 * 16),
    }
