"""DeepSpeed: our JSON and the user's, and engines of every kind that a CPU can run, in one process."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tubelet.backbones import create_model
from tubelet.pipeline.checkpoints.training_state import put_training_state, take_training_state
from tubelet.pipeline.cluster.distributed import World, join
from tubelet.pipeline.config import OptimConfig, SystemConfig, TrainConfig
from tubelet.pipeline.config.checks import checked
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.pipeline.training.engine import deepspeed_json, set_learning_rate, start_engine, step

OPTIM = OptimConfig(lr=1e-3, accumulate=2)


@pytest.fixture(scope="module")
def world():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        # Stays for the tests after it: DeepSpeed holds on to the first process group of a process.
        yield join(60, always=True)


def engine_of(world: World, optim: OptimConfig, system: SystemConfig, name: str = "timesformer_tiny", **arguments):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **arguments)
    model.set_grad_checkpointing(system.grad_checkpointing)
    size = sum(parameter.numel() for parameter in model.parameters())
    return start_engine(model, optim, system, deepspeed_json(optim, system, 2, size), world)


def train(engine, optim: OptimConfig, system: SystemConfig, steps: int, first: int = 0) -> list[float]:
    clip = engine.module.clip
    losses = []
    for number in range(first, first + steps):
        torch.manual_seed(number)
        set_learning_rate(engine, 1e-3)
        for _ in range(optim.accumulate):
            logits = engine(torch.randn(2, 3, clip.frames, clip.size, clip.size))
            loss = F.cross_entropy(logits.float(), torch.tensor([0, 1]))
            engine.backward(loss)
            step(engine, optim, system)
        losses.append(loss.item())
    return losses


def test_the_buckets_are_small() -> None:
    config = deepspeed_json(OPTIM, SystemConfig(zero_stage=2), 4, 1000)
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == 1.0


def test_all_stages_compute_the_same(world: World) -> None:
    kinds = [SystemConfig(zero_stage=stage) for stage in (0, 1, 2, 3)]  # type: ignore[arg-type]
    kinds.append(SystemConfig(zero_stage=2, offload=True))
    kinds.append(SystemConfig(zero_stage=1, overlap=True, grad_checkpointing=True))
    first, *others = (train(engine_of(world, OPTIM, kind), OPTIM, kind, 3) for kind in kinds)
    for losses in others:
        assert losses == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 3), (3, 1)])
def test_a_run_goes_on_at_another_stage(world: World, before: int, after: int, optimizer: str) -> None:
    optim = replace(OPTIM, optimizer=optimizer)
    one, other = SystemConfig(zero_stage=before), SystemConfig(zero_stage=after)  # type: ignore[arg-type]
    engine = engine_of(world, optim, one)
    train(engine, optim, one, 2)
    saved = take_training_state(engine, keep=True)
    gone_on = engine_of(world, optim, other)
    put_training_state(gone_on, saved)
    assert train(gone_on, optim, other, 2, first=2) == pytest.approx(train(engine, optim, one, 2, first=2), abs=1e-6)
    again = take_training_state(gone_on, keep=True)
    assert again.keys() == saved.keys()


def test_a_checkpoint_of_another_optimiser(world: World) -> None:
    engine = engine_of(world, OPTIM, SystemConfig())
    train(engine, OPTIM, SystemConfig(), 1)
    saved = take_training_state(engine, keep=True)
    sgd = replace(OPTIM, optimizer="sgd")
    with pytest.raises(RunError, match=r"trained with another --optimizer or --tune \(its states are exp_avg"):
        put_training_state(engine_of(world, sgd, SystemConfig()), saved)
    del saved["weight/head.bias"]
    with pytest.raises(RunError, match=r"such as weight/head\.bias"):
        put_training_state(engine_of(world, OPTIM, SystemConfig()), saved)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_loss_that_is_no_number_changes_nothing(world: World, stage: int) -> None:
    system = SystemConfig(zero_stage=stage)  # type: ignore[arg-type]
    optim = replace(OPTIM, accumulate=1)
    engine = engine_of(world, optim, system)
    train(engine, optim, system, 1)
    before = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    engine.backward(engine(torch.full((2, 3, 8, 48, 48), float("nan"))).sum())
    assert math.isnan(step(engine, optim, system))
    assert all(torch.equal(p, before[name]) for name, p in engine.module.named_parameters())
    train(engine, optim, system, 1)
    assert not torch.equal(engine.module.head.weight, before["head.weight"])


@pytest.mark.slow
def test_compiled_it_learns_the_same_under_the_same_names(world: World) -> None:
    torch.compiler.reset()  # what other tests compiled makes shapes dynamic here
    plain, compiled = SystemConfig(), SystemConfig(compile=True)
    engine = engine_of(world, OPTIM, compiled, depth=2)
    losses = train(engine, OPTIM, compiled, 2)
    assert losses == pytest.approx(train(engine_of(world, OPTIM, plain, depth=2), OPTIM, plain, 2), abs=1e-4)
    assert not any("_orig_mod" in name for name in engine.module.state_dict())


def write(folder: Path, **content: object) -> SystemConfig:
    file = folder / "mine.json"
    file.write_text(json.dumps(content))
    return SystemConfig(zero_stage=1, deepspeed_config=file)


def test_settings_of_ones_own_come_beside_ours(world: World, tmp_path: Path) -> None:
    zero = {"stage": 1, "round_robin_gradients": True, "offload_optimizer": {"device": "none"}}
    system = write(tmp_path, zero_optimization=zero, wall_clock_breakdown=False)
    config = deepspeed_json(OPTIM, system, 2, 1000)
    assert config["zero_optimization"]["round_robin_gradients"]
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    train(engine_of(world, OPTIM, system), OPTIM, system, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage = 2, and it is 1 by --zero-stage"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps = 4, and it is 2 by --accumulate"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = True, and it is False by --precision"),
        ({"gradient_cliping": 1.0}, "unknown key gradient_cliping; did you mean gradient_clipping"),
        ({"gradient_clipping": 0.0}, "gradient_clipping = 0.0, and it is 1.0 by --clip-grad"),
        ({"zero_optimization": 3}, "zero_optimization: input should be a valid dictionary .* got 3"),
        ({"gradient_clipping": {}}, "gradient_clipping: input should be a valid number"),
        (
            {"zero_optimization": {"round_robin_gradient": True}},
            r"mine.json: unknown key zero_optimization.round_robin_gradient; did you mean round_robin_gradients\?",
        ),
        (
            {"zero_optimization": {"offload_param": {"devise": "cpu"}}},
            r"unknown key zero_optimization.offload_param.devise; did you mean device\?",
        ),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size: input should be .* got 'many'"),
        ({"flops_profiler": {"enable": True}}, r"unknown key flops_profiler.enable; did you mean enabled\?"),
        ({"zero_optimization": {"cpu_offload": True}}, "cpu_offload = True, and it is not set by --offload"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer.device = 'cpu', and it is not set by --offload",
        ),
        ({"torch_autocast": {"enabled": {}}}, "torch_autocast.enabled.*: input should be"),
        ({"curriculum_learning": {}}, "take curriculum_learning out of it: it has no effect"),
        ({"optimizer": {"type": "Adam"}}, "take optimizer out of it: the optimiser comes from --optimizer"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "has the value auto, which only Hugging Face fills in"),
    ],
)
def test_settings_that_say_otherwise(content: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_json(OPTIM, write(tmp_path, **content), 2, 1000)


def test_a_settings_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.json: is not a readable JSON file"):
        deepspeed_json(OPTIM, SystemConfig(deepspeed_config=tmp_path / "none.json"), 2, 1000)


@pytest.mark.parametrize(
    ("optim", "system", "message"),
    [
        (OptimConfig(schedule="step"), SystemConfig(), "--schedule step and --step-epochs go together"),
        (OptimConfig(), SystemConfig(offload=True), "--offload and --overlap are ZeRO's"),
        (OptimConfig(), SystemConfig(precision="fp16"), "--precision fp16 needs fp32 copies"),
        (OptimConfig(optimizer="lamb"), SystemConfig(zero_stage=1), "--optimizer lamb looks at each tensor's norm"),
        (OptimConfig(ema=0.9), SystemConfig(zero_stage=3), "--ema averages whole fp32 parameters"),
        (OptimConfig(), SystemConfig(precise_bn=3, batch_norm="frozen"), "--precise-bn takes statistics anew"),
        (OptimConfig(tune="some"), SystemConfig(), "is full, head or a number of layers"),
    ],
)
def test_what_does_not_go_together(optim: OptimConfig, system: SystemConfig, message: str, tmp_path: Path) -> None:
    whole = TrainConfig(optim=optim, system=system)
    ready = replace(
        whole,
        model=replace(whole.model, model="c3d_tiny"),
        data=replace(whole.data, data="shards"),
        run=replace(whole.run, out=tmp_path),
    )
    with pytest.raises(ConfigError, match=message):
        checked(ready)
