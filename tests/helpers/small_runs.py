"Runs of the tiny model that are over in a second or two, and what of their metrics can be compared."

from mpo_nb.config import TrainConfig
from mpo_nb.training.metrics import clock_metrics

SMALL = dict(
    steps=2,
    prompts_per_step=4,
    group_size=4,
    eval_every=0,
    checkpoint_every=2,
    precision="float32",
    max_new_tokens=48,
    progress=False,
)


def small(folder, **options) -> TrainConfig:
    return TrainConfig(output=str(folder / "run"), **SMALL | options)


def computed(rows: list[dict]) -> list[dict]:
    "Metrics without those that are read off a clock."
    return [{k: v for k, v in row.items() if k not in clock_metrics} for row in rows]
