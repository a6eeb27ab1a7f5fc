"""The optimisers of a training, and several of them as one."""

from __future__ import annotations

import copy

import pytest
import torch
from training_cases import config

from surrogate.flow import ConditionalFlow
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training.optimisers import JointOptimiser, build_optimiser, hidden_matrices
from training.settings import OptimiserConfig

MUON = OptimiserConfig(algorithm="muon", learning_rate=0.01)
SPACE = ObservableSpace((Observable("s1", "PE", 0.0, 1.0), Observable("s2", "PE", 0.0, 1.0)))
THETA = NuisanceSpace((Nuisance("g1", "phd/photon", 0.08, 0.14, 0.1),))


def flow(tmp_path, family: str = "logistic_mixture") -> ConditionalFlow:
    return ConditionalFlow(
        config(tmp_path, flow={"family": family, "layers": 2 if family == "spline_coupling" else 1}).flow.build(
            SPACE, THETA
        ),
        seed=3,
    )


def fit(module: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> float:
    u = torch.rand(256, 2, generator=torch.Generator().manual_seed(1)).square()
    theta = torch.full((256, 1), 0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = -module.log_prob_unit(u, theta).mean()
        loss.backward()
        optimiser.step()
    return loss.item()


@pytest.mark.parametrize(
    "family", ["logistic_mixture", "normal_mixture", "spline_autoregressive", "spline_coupling", "histogram"]
)
def test_muon_takes_the_matrices_between_hidden_layers_and_adamw_the_rest(tmp_path, family):
    module = flow(tmp_path, family) if family != "histogram" else _histogram(tmp_path)
    hidden = hidden_matrices(module)
    assert hidden
    assert all(matrix.shape == (8, 8) for matrix in hidden)
    joint = build_optimiser(module, MUON)
    assert isinstance(joint, JointOptimiser)
    counted = [p for group in joint.param_groups for p in group["params"]]
    assert len(counted) == len({id(p) for p in counted}) == len(list(module.parameters()))


def _histogram(tmp_path) -> ConditionalFlow:
    binned = tuple(Observable(n, "PE", 0.0, 1.0, "bins", edges=(0.0, 0.5, 1.0)) for n in ("s1", "s2"))
    return ConditionalFlow(config(tmp_path, flow={"family": "histogram"}).flow.build(ObservableSpace(binned), THETA))


def test_adamw_alone_is_the_library_s_own(tmp_path):
    assert isinstance(build_optimiser(flow(tmp_path), OptimiserConfig(algorithm="adamw")), torch.optim.AdamW)


def test_one_step_is_that_of_each_part_on_its_own_parameters(tmp_path):
    module, twin = flow(tmp_path), flow(tmp_path)
    fit(module, build_optimiser(module, MUON), 1)
    hidden = hidden_matrices(twin)
    others = [p for p in twin.parameters() if all(p is not q for q in hidden)]
    parts = (
        torch.optim.AdamW(others, lr=0.01, weight_decay=1e-4),
        torch.optim.Muon(hidden, lr=0.025, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw"),
    )
    u = torch.rand(256, 2, generator=torch.Generator().manual_seed(1)).square()
    (-twin.log_prob_unit(u, torch.full((256, 1), 0.1)).mean()).backward()
    for part in parts:
        part.step()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_schedule_reaches_all_parts_also_after_a_state_was_restored(tmp_path):
    module = flow(tmp_path)
    joint = build_optimiser(module, MUON)
    fit(module, joint, 1)
    joint.load_state_dict(joint.state_dict())
    schedule = torch.optim.lr_scheduler.LambdaLR(joint, lambda step: 0.0)
    before = [p.clone() for p in module.parameters()]
    fit(module, joint, 1)
    assert schedule.get_last_lr() == [0.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_restored_state_continues_to_the_same_weights(tmp_path):
    module = flow(tmp_path)
    joint = build_optimiser(module, MUON)
    fit(module, joint, 5)
    other = flow(tmp_path)
    other.load_state_dict(module.state_dict())
    restored = build_optimiser(other, MUON)
    restored.load_state_dict(copy.deepcopy(joint.state_dict()))
    assert fit(module, joint, 5) == fit(other, restored, 5)


def test_the_closure_is_evaluated_once(tmp_path):
    module = flow(tmp_path)
    calls = []

    def closure() -> float:
        calls.append(1)
        loss = -module.log_prob_unit(torch.full((4, 2), 0.3), torch.full((4, 1), 0.1)).mean()
        loss.backward()
        return loss.item()

    assert build_optimiser(module, MUON).step(closure) is not None
    assert calls == [1]
