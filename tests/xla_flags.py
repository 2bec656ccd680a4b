"""Flags with which XLA compiles a training step in a quarter of the time of its default ones."""

FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
