"""The state machine's definition as a document: every instruction has its state, every state can be left, no rule."""

from typing import Any

from hanse.deploy.aws.interpreter import definition
from hanse.serverless.contract import KINDS

ARNS = {handler: f"arn:{handler}" for handler in ("step", "timer", "reduce", "evaluate")}
MACHINE = definition(ARNS, "arn:machine")
STATES: dict[str, dict[str, Any]] = MACHINE["States"]


def successors(state: dict[str, Any]) -> set[str]:
    found = {state[key] for key in ("Next", "Default") if key in state}
    found |= {branch["Next"] for key in ("Choices", "Catch") for branch in state.get(key, [])}
    return found


def test_every_instruction_has_a_state_and_every_state_is_reached_and_left() -> None:
    choices = {choice["StringEquals"]: choice["Next"] for choice in STATES["Which"]["Choices"]}
    assert set(choices) == set(KINDS)
    other = {"Step": "Continue", "Again": "Step"}  # the instruction Step starts the next execution
    assert choices == {kind: other.get(kind, kind) for kind in KINDS}
    reached, todo = set(), {MACHINE["StartAt"]}
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= successors(STATES[name]) - reached
    assert reached == set(STATES)
    for name, state in STATES.items():
        is_end = state["Type"] in ("Succeed", "Fail")
        assert bool(successors(state)) != is_end, name


def test_nothing_is_decided_but_by_what_a_function_said() -> None:
    read = {c["Variable"] for s in STATES.values() for c in s.get("Choices", []) if "Variable" in c}
    assert read == {"$.kind", "$.status"}
    assert {s["Type"] for s in STATES.values()} <= {"Task", "Choice", "Map", "Succeed", "Fail"}


def test_a_wait_ends_with_an_answer_or_in_time() -> None:
    wait = STATES["Wait"]
    assert wait["Resource"].endswith("lambda:invoke.waitForTaskToken")
    assert wait["Parameters"]["Payload"] == {"token.$": "$$.Task.Token", "instruction.$": "$"}
    assert wait["TimeoutSecondsPath"] == "$.timeout_s"
    assert wait["Catch"] == [{"ErrorEquals": ["States.Timeout"], "ResultPath": None, "Next": "Step"}]
    assert definition(ARNS, "m", longest_wait_s=5)["States"]["Wait"]["TimeoutSeconds"] == 5


def test_a_reduction_is_spread_and_its_instruction_goes_on() -> None:
    shards = STATES["Reduce"]
    assert (shards["ItemsPath"], shards["ResultPath"], shards["Next"]) == ("$.shards", None, "Step")
    assert shards["ItemProcessor"]["States"]["Shard"]["Parameters"]["FunctionName"] == "arn:reduce"


def test_a_function_that_dies_is_called_again() -> None:
    tasks = [STATES["Step"], STATES["Evaluate"], STATES["Wait"], STATES["Reduce"]["ItemProcessor"]["States"]["Shard"]]
    for state in tasks:
        errors = {error for retry in state["Retry"] for error in retry["ErrorEquals"]}
        assert {"Lambda.ServiceException", "Lambda.TooManyRequestsException", "States.TaskFailed"} <= errors
    assert "States.Timeout" not in {error for retry in STATES["Wait"]["Retry"] for error in retry["ErrorEquals"]}


def test_the_next_execution_bears_the_name_that_was_given() -> None:
    state = STATES["Continue"]
    assert state["Parameters"] == {
        "StateMachineArn": "arn:machine",
        "Name.$": "$.name",
        "Input.$": "States.JsonToString($.input)",
    }
    assert state["Catch"][0]["ErrorEquals"] == ["Sfn.ExecutionAlreadyExistsException"]
    assert state["Retry"][0] == {"ErrorEquals": ["Sfn.ExecutionAlreadyExistsException"], "MaxAttempts": 0}
    assert "States.TaskFailed" in state["Retry"][1]["ErrorEquals"]  # throttled: the job must go on
