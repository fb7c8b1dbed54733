"""The state machine: it waits, fans out and ends as it is told, and decides nothing.

What it is told are the instructions of `hanse.serverless.contract`; a state for each kind, and one choice between them.
No rule of a federation can be found here: if one were needed, it would belong in the round machine.
"""

from typing import Any

from hanse.serverless.contract import KINDS

State = dict[str, Any]
SHARDS_AT_ONCE = 40
_FAULTS = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]

_EXISTS = "Sfn.ExecutionAlreadyExistsException"


def definition(arns: dict[str, str], machine_arn: str, *, longest_wait_s: int | None = None) -> dict[str, Any]:
    """The definition in Amazon's States Language (JSONPath).

    Args:
        arns: handler name → the function's ARN, or what is substituted for it.
        machine_arn: the state machine's own.
        longest_wait_s: look again after so many seconds instead of when the instruction says, for an emulator that
            knows no `TimeoutSecondsPath`. Harmless: who looks too early is told to wait once more.
    """
    return {
        "Comment": "Interprets the instructions of Hanse's functions; holds no rule of its own",
        "QueryLanguage": "JSONPath",
        "StartAt": "Step",
        "States": {
            "Step": _invoke(arns["step"], {"Next": "Which"}),
            "Which": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.kind", "StringEquals": kind, "Next": _STATES[kind]} for kind in KINDS],
                "Default": "Unknown",
            },
            "Wait": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
                "Parameters": {
                    "FunctionName": arns["timer"],
                    "Payload": {"token.$": "$$.Task.Token", "instruction.$": "$"},
                },
                **(
                    {"TimeoutSecondsPath": "$.timeout_s"}
                    if longest_wait_s is None
                    else {"TimeoutSeconds": longest_wait_s}
                ),
                # A timer that dies has told nobody of its token: nobody would ever be called.
                "Retry": [_retry(_FAULTS), _retry(["States.TaskFailed"], attempts=4)],
                # The Wait itself is the input of the step that looks at what has come.
                "Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": None, "Next": "Step"}],
                "Next": "Which",
            },
            "Reduce": {
                "Type": "Map",
                "ItemsPath": "$.shards",
                "MaxConcurrency": SHARDS_AT_ONCE,
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "INLINE"},
                    "StartAt": "Shard",
                    "States": {"Shard": _invoke(arns["reduce"], {"End": True})},
                },
                "ResultPath": None,
                "Next": "Step",
            },
            "Evaluate": _invoke(arns["evaluate"], {"Next": "Which"}),
            "Continue": {
                "Type": "Task",
                "Resource": "arn:aws:states:::aws-sdk:sfn:startExecution",
                "Parameters": {
                    "StateMachineArn": machine_arn,
                    "Name.$": "$.name",
                    "Input.$": "States.JsonToString($.input)",
                },
                "Retry": [
                    {"ErrorEquals": [_EXISTS], "MaxAttempts": 0},
                    _retry(["Sfn.SdkClientException", "States.TaskFailed"]),
                ],
                "Catch": [{"ErrorEquals": [_EXISTS], "Next": "Continued"}],
                "Next": "Continued",
            },
            "Continued": {"Type": "Succeed"},
            "Finish": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.status", "StringEquals": "finished", "Next": "Finished"}],
                "Default": "Ended",
            },
            "Finished": {"Type": "Succeed"},
            "Ended": {"Type": "Fail", "ErrorPath": "$.status", "CausePath": "$.error"},
            "Unknown": {
                "Type": "Fail",
                "Error": "unknown-instruction",
                "Cause": "The functions are newer than this state machine: run `hanse deploy aws deploy` again",
            },
        },
    }


_STATES = {
    "Wait": "Wait",
    "Reduce": "Reduce",
    "Evaluate": "Evaluate",
    "Step": "Continue",
    "Again": "Step",
    "Finish": "Finish",
}


def _invoke(function: str, after: State) -> State:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload.$": "$"},
        "OutputPath": "$.Payload",
        # A function may be killed at any point and called again: what it decides, it writes once. Its own errors too
        # are worth another try (a store that is not there for a moment); after these the execution fails.
        "Retry": [_retry(_FAULTS), _retry(["States.TaskFailed", "States.Timeout"], attempts=4)],
        **after,
    }


def _retry(errors: list[str], attempts: int = 8) -> State:
    return {
        "ErrorEquals": errors,
        "IntervalSeconds": 2,
        "MaxAttempts": attempts,
        "BackoffRate": 2,
        "MaxDelaySeconds": 60,
        "JitterStrategy": "FULL",
    }
