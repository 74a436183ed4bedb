"""A solver under a task: constraints and their cores, knights and knaves, and what is trained above and below it."""

import importlib
import itertools
import random
import subprocess
import sys

import pytest
import torch

from mpo_nb.actions import BlockActions, TokenActions
from mpo_nb.advantages import boundary_advantages, distribute, two_level_advantages
from mpo_nb.blocks import level_blocks, sequence_block, tokens_in
from mpo_nb.losses import policy_loss
from mpo_nb.objectives import even_answer
from mpo_nb.recipes import recipe
from mpo_nb.tasks import (
    Task,
    chain_problems,
    demonstration,
    load_task,
    score,
    solve_constraints,
    solve_statements,
    solved,
    step_errors,
)
from mpo_nb.tasks.formal import Solution, Solver, complement, executed_sum, sum_operations, sum_terms
from mpo_nb.training import TrainConfig, Trainer
from mpo_nb.training.judging import task_tokens


def every_model(statements) -> list[dict]:
    "By trying all assignments, with an evaluator of this file's own."

    def true(statement, knights) -> bool:
        kind, *parts = statement
        if kind in ("telling-truth", "lying"):
            return knights[parts[0]] == (kind == "telling-truth")
        values = [true(part, knights) for part in parts]
        return {
            "not": lambda: not values[0],
            "and": lambda: all(values),
            "or": lambda: any(values),
            "->": lambda: not values[0] or values[1],
            "<=>": lambda: values[0] == values[1],
        }[kind]()

    found = []
    for knights in itertools.product([True, False], repeat=len(statements)):
        if all(knights[i] == true(statement, knights) for i, statement in enumerate(statements)):
            found.append(dict(enumerate(knights)))
    return found


@pytest.fixture(scope="module")
def riddles() -> list:
    "Five hundred of reasoning-gym, of three kinds."
    pytest.importorskip("z3", reason="pip install 'mpo_nb[papers]'")
    gym = pytest.importorskip("reasoning_gym", reason="pip install 'mpo_nb[gym]'")
    kinds = [dict(n_people=2, size=200), dict(n_people=3, size=200), dict(n_people=4, width_constraint=3, size=100)]
    made = [entry["metadata"] for kind in kinds for entry in gym.create_dataset("knights_knaves", seed=7, **kind)]
    assert len(made) == 500
    return made


def test_the_solver_finds_the_one_solution_of_each_riddle(riddles):
    "Z3's only model is reasoning-gym's solution, and that of trying all."
    for riddle in riddles:
        right = dict(enumerate(riddle["solution"]))
        solution = solve_statements(riddle["statements"])
        assert solution == Solution([right], []) and solution.failure(right) == ""
        assert every_model(riddle["statements"]) == [right]


def test_models_and_cores_are_those_of_trying_all(riddles):
    "With every person's statement turned round in turn: as many models, and cores that have none."
    kinds = set()
    for riddle in riddles[::12]:
        statements = riddle["statements"]
        for i in range(len(statements)):
            turned = (*statements[:i], ("not", statements[i]), *statements[i + 1 :])
            solution = solve_statements(turned, most=16)
            wanted = every_model(turned)
            kinds.add(solution.kind)
            assert sorted(solution.models, key=str) == sorted(wanted, key=str)
            assert (solution.core != []) == (wanted == [])
            if solution.core:
                silent = [said if j in solution.core else ("telling-truth", j) for j, said in enumerate(turned)]
                assert every_model(silent) == []  # whoever is not in the core says something that is always true
    assert kinds == {"unsatisfiable", "one model", "several models"}


def test_numbers_names_and_limits():
    z3 = pytest.importorskip("z3", reason="pip install 'mpo_nb[papers]'")
    n, even = z3.Int("n"), z3.Bool("even")
    stated = {"parity": even == (n % 2 == 0), "low": n > 2, "high": n < 5}
    solution = solve_constraints(stated, {"n": n, "even": even}, most=9)
    assert sorted(solution.models, key=str) == [{"n": 3, "even": False}, {"n": 4, "even": True}]
    assert solution.failure({"n": 3, "even": False}) == "several models"
    assert solve_constraints(stated | {"even": even}, {"n": n}).models == [{"n": 4}]
    assert solve_constraints(stated, {"even": even}, most=1).kind == "one model", "it stops when it is told to"
    assert solve_constraints(stated | {("any", "name"): n == 9}, {"n": n}).core == ["high", ("any", "name")]
    for bad in (dict(most=0), dict(timeout=0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            solve_constraints(stated, {"n": n}, **bad)
    x, y, z = z3.Ints("x y z")
    cubes = {"cubes": x * x * x + y * y * y + z * z * z == 42, "big": z3.And(x > 10**6, y < -(10**6))}
    with pytest.raises(RuntimeError, match="timeout=0.05 s"):
        solve_constraints(cubes, {"x": x}, timeout=0.05)


def test_without_z3_the_remedy_is_named(monkeypatch):
    real = importlib.import_module

    def missing(name, *args):
        if name == "z3":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"z3-solver; pip install 'mpo_nb\[papers\]'"):
        solve_statements((("telling-truth", 0),))


def test_nothing_imports_z3_unasked():
    code = "import sys, mpo_nb.tasks as t; t.solved(n_train=9, n_test=9); print('z3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")


@pytest.mark.parametrize("error_rate", [0.0, 0.4])
def test_a_chain_states_its_problem_whatever_it_slips(error_rate):
    rng = random.Random(3)
    for problem in chain_problems(200, terms=(2, 6), rng=rng):
        response = demonstration(problem, error_rate, rng)
        terms = sum_terms(response)
        digits = [d for d in problem["prompt"] if d.isdigit()]
        assert [str(abs(term)) for term in terms] == digits and str(sum(terms)) == problem["answer"]
        executed = executed_sum(response)
        assert executed.endswith(f"#{problem['answer']}") and executed_sum(executed) == executed
        if error_rate == 0:
            assert executed == response
        stretches = sum_operations(response)
        assert [response[a:b] for a, b in stretches] == [executed[a:b] for a, b in sum_operations(executed)]
        between = complement(stretches, len(response))
        assert sorted(stretches + between)[0][0] == 0 and sum(b - a for a, b in stretches + between) == len(response)


def test_solved_judges_what_the_solver_makes():
    task = solved(n_train=20, n_test=20)
    plain = load_task("chain_sum", n_train=20, n_test=20)
    assert task.train == plain.train and task.trained is None and task.name == "chain_sum_solved"
    problem = dict(prompt="7+5-3?", answer="9")
    texts = ["7+5=12;12-3=9#9", "7+5=13;13-3=8#1", "7+5=12;12-2=10#9", "9#9", ""]
    assert score(task, [problem] * 5, texts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert score(plain, [problem] * 5, texts) == [1.0, 0.0, 1.0, 1.0, 0.0]
    batched = Task("b", [problem], [problem], lambda ps, rs: [len(r) for r in rs], batched=True)
    below = Solver(lambda r: None if "?" in r else r + "!", lambda r: [(0, 1)])
    assert score(solved(batched, below), [problem] * 3, ["ab", "?", "a"]) == [3.0, 0.0, 2.0]
    assert score(solved(batched, below), [problem], ["?"]) == [0.0]
    assert solved(batched, below, train_on="solution").trained(problem, "abc") == [(1, 3)]


# -- two levels ------------------------------------------------------------------------------------------------------


def two_level_batch(seed: int = 0):
    "Six responses of different lengths whose first tokens state the problem; rewards and values; float64."
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 7, 5, 9, 3, 8])
    stated = torch.tensor([4, 3, 1, 8, 2, 5])
    place = torch.arange(9)
    mask = place < lengths[:, None]
    upper = place < stated[:, None]
    rewards = torch.rand(6, generator=generator, dtype=torch.float64)
    value = torch.rand(6, generator=generator, dtype=torch.float64)
    return mask, upper, rewards, value, generator


def test_an_exact_solver_gets_nothing_and_the_formalisation_all():
    "To the bit: V after the formalisation is the reward, so the lower block's difference is 0."
    mask, upper, R, V, _ = two_level_batch()
    ids = level_blocks(mask, upper)
    per_block = boundary_advantages(torch.stack([V, R], 1), R, ids, per="block")  # (B, 2)
    assert torch.equal(per_block[:, 0], R - V) and torch.equal(per_block[:, 1], torch.zeros_like(R))
    A = two_level_advantages(R, V, upper, mask)
    assert torch.equal(A, distribute(per_block, ids))
    assert torch.equal(A, torch.where(mask & upper, (R - V)[:, None], 0))


def test_with_a_solver_that_slips_the_two_levels_telescope():
    mask, upper, R, V, generator = two_level_batch(1)
    stated = torch.rand(6, generator=generator, dtype=torch.float64)
    ids = level_blocks(mask, upper)
    per_block = boundary_advantages(torch.stack([V, stated], 1), R, ids, per="block")
    A = two_level_advantages(R, V, upper, mask, stated)
    assert torch.equal(A, distribute(per_block, ids))
    torch.testing.assert_close(per_block.sum(1), R - V, rtol=0, atol=1e-15)


def test_one_level_is_the_response_as_one_action():
    "One block, R - V(s_0) on every token, to the bit."
    mask, _, R, V, _ = two_level_batch(2)
    ids = level_blocks(mask, mask)
    assert torch.equal(ids, sequence_block(mask))
    wanted = distribute(boundary_advantages(V[:, None], R, ids, per="block"), ids)
    assert torch.equal(two_level_advantages(R, V, mask, mask), wanted)
    assert torch.equal(wanted, torch.where(mask, (R - V)[:, None], 0))


@pytest.mark.parametrize("space", ["token", "level"])
@pytest.mark.parametrize("surrogate", ["none", "ppo"])
def test_a_frozen_level_gets_no_credit_and_gradients_add(space, surrogate):
    "Frozen by `train_on`, its tokens have credit 0 exactly; the joint gradient is the sum of the two levels'."
    mask, upper, R, V, generator = two_level_batch(3)
    stated = torch.rand(6, generator=generator, dtype=torch.float64)
    A = two_level_advantages(R, V, upper, mask, stated)
    old = -torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    moved = 0.02 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    actions = TokenActions() if space == "token" else BlockActions(level_blocks(mask, upper))

    def gradient(trained):
        "Credit of each token: minus the derivative of the loss, a sum over tokens and a mean over responses."
        logps = (old + moved).requires_grad_()
        loss = policy_loss(logps, old, A, trained, actions, surrogate=surrogate, aggregate="seq-mean-token-sum").loss
        return -torch.autograd.grad(loss, logps)[0]

    joint, above, below = gradient(mask), gradient(mask & upper), gradient(mask & ~upper)
    assert above[~upper].eq(0).all() and below[upper].eq(0).all()
    assert above[mask & upper].ne(0).any() and below[mask & ~upper].ne(0).any()
    assert torch.equal(joint, above + below)


def test_levels_that_alternate_and_a_hole():
    text = list("7+5=12;12-3=9#9")
    mask = torch.ones(2, 16)
    mask[:, 15] = 0
    mask[1, 4] = 0  # the 1 of 12 is a tool's, say
    stretches = [sum_operations("".join(text)), sum_operations("7+5=2;12-3=9#9")]
    upper = tokens_in(mask, [text, text], stretches)
    assert ["".join(t for t, above in zip(text, row) if above) for row in upper.tolist()] == ["7+5-3"] * 2
    ids = level_blocks(mask, upper)
    assert ids[0].tolist() == [0] * 3 + [1] * 6 + [2] * 2 + [3] * 4 + [-1]
    assert ids[1].tolist() == [0] * 3 + [1, -1] + [1] * 4 + [2] * 2 + [3] * 4 + [-1]
    assert level_blocks(mask, upper, gaps="end")[1].tolist() == [0] * 3 + [1, -1] + [2] * 4 + [3] * 2 + [4] * 4 + [-1]
    assert level_blocks(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)
    nan = torch.where(mask.bool(), upper.double(), torch.nan)
    assert torch.equal(level_blocks(mask, nan), ids)


def test_bad_levels_are_refused():
    mask = torch.ones(2, 3)
    with pytest.raises(ValueError, match="stretches has 1 rows"):
        tokens_in(mask, [["a"] * 3] * 2, [[(0, 1)]])
    with pytest.raises(ValueError, match="upper has shape"):
        level_blocks(mask, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"value has shape \(2, 3\)"):
        two_level_advantages(torch.ones(2), torch.ones(2, 3), mask, mask)


# -- the trainer -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> dict:
    "One step's responses of the tiny model, judged under each `train_on`."
    made = {}
    for train_on in ("all", "formalisation", "solution"):
        config = TrainConfig(
            task="mpo_nb.tasks:solved",
            task_options=dict(train_on=train_on, n_train=50, n_test=20),
            recipe="grpo",
            prompts_per_step=2,
            group_size=4,
            steps=1,
            eval_every=0,
            temperature=1.5,
            progress=False,
            output=str(tmp_path_factory.mktemp("run") / train_on),
        )
        trainer = Trainer(config)
        made[train_on] = trainer, trainer.collect(1)
    return made


def test_the_trainer_takes_its_tokens_from_the_task(batches):
    "`train_on` alone decides: the two levels are disjoint, and together they are all that the policy wrote."
    (_, both), (trainer, upper), (_, lower) = batches.values()
    assert both.learnt is None and torch.equal(both.rollout.ids, upper.rollout.ids)
    assert not (upper.learnt & lower.learnt).any()
    r = both.rollout
    ends = r.ids == trainer.tokenizer.eos_token_id
    assert torch.equal(upper.learnt | lower.learnt, r.mask & ~ends)
    for i, text in enumerate(r.texts):
        kept = [trainer.tokenizer.decode([t]) for t in r.ids[i][upper.learnt[i]].tolist()]
        assert "".join(kept) == "".join(text[a:b] for a, b in sum_operations(text))


def test_only_the_chosen_level_has_credit(batches):
    "The loss that the learner takes, as the trainer hands it over: credit exactly 0 on the other level."
    for name, (_, batch) in batches.items():
        batch.advantages = torch.ones(len(batch.rewards))
        inputs = batch.inputs(torch.arange(len(batch.rewards)))
        credit = recipe("grpo").loss(inputs | dict(logps=inputs["old_logps"].clone().requires_grad_())).credit
        trained = inputs["mask"].bool()
        assert credit[~trained].eq(0).all() and credit[trained].ne(0).all(), name


def test_what_is_no_stretch_is_refused(batches):
    trainer, batch = batches["all"]
    problem = dict(prompt="?", answer="")
    for trained, error, words in (
        (lambda p, r: 1 / 0, RuntimeError, "ZeroDivisionError.*response 0"),
        (lambda p, r: [3], ValueError, "return stretches as pairs"),
    ):
        task = Task("mine", [problem], [problem], lambda p, r: 0.0, trained=trained)
        with pytest.raises(error, match=words):
            task_tokens(task, batch.problems, batch.rollout, trainer.tokenizer)
    with pytest.raises(ValueError, match="trained"):
        Task("mine", [problem], [problem], lambda p, r: 0.0, trained=3)


def test_numbers_of_thousands_of_digits_are_no_numbers():
    "Python reads no more than 4,300 digits; a response that has them is wrong, and ends no run."
    many = "9" * 5000
    assert executed_sum(f"{many}+1=1#1") is None and executed_sum(f"1+{many}=1#1") is None
    assert executed_sum(f"1+2={many}#{many}") == "1+2=3#3"
    assert step_errors("1+2?", f"{many}+2=3#3") == ["unreadable", "result"]
    assert step_errors("1+2?", f"1+2=3#{many}") == ["", "unreadable"]
    assert even_answer({}, f"1+2=3#{many}8") == 1.0 and even_answer({}, f"#{many}") == 0.0
