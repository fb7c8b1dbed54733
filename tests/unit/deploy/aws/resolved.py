"""What CloudFormation makes of a template's references, for a made-up account: enough to read and try policies."""

import re
from typing import Any

ACCOUNT, REGION = "123456789012", "eu-central-1"
PSEUDO = {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws"}


def resolved(template: dict[str, Any], value: Any, parameters: dict[str, str] | None = None) -> Any:
    """`value` of the template with every reference filled in."""
    known = parameters or {}

    def fill(item: Any) -> Any:
        match item:
            case {"Ref": str(name)}:
                return reference(name)
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                return attribute_of(template, name, attribute)
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: str(substituted(found[1])), text)
            case dict():
                return {key: fill(each) for key, each in item.items()}
            case list():
                return [fill(each) for each in item]
        return item

    def substituted(name: str) -> Any:
        owner, dot, attribute = name.partition(".")
        return attribute_of(template, owner, attribute) if dot else reference(name)

    def reference(name: str) -> Any:
        if name in PSEUDO:
            return PSEUDO[name]
        if name in template["Parameters"]:
            return known.get(name, f"parameter-{name}")
        if template["Resources"][name]["Type"] in ("AWS::SecretsManager::Secret", "AWS::SNS::Topic"):
            return attribute_of(template, name, "Arn")
        return physical(template, name)

    return fill(value)


def physical(template: dict[str, Any], name: str) -> str:
    """The name or URL that AWS gives a resource."""
    resource = template["Resources"][name]
    properties = resource.get("Properties", {})
    for key in ("QueueName", "TableName", "FunctionName", "LogGroupName", "RoleName", "TopicName", "Name"):
        if key in properties:
            return str(properties[key])
    return f"made-{name.lower()}"


def attribute_of(template: dict[str, Any], name: str, attribute: str) -> str:
    """An attribute; for most it is the ARN."""
    kind = template["Resources"][name]["Type"]
    own = physical(template, name)
    if attribute in ("QueueName", "GroupId"):
        return own
    forms = {
        "AWS::S3::Bucket": f"arn:aws:s3:::{own}",
        "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{own}",
        "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{own}",
        "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{own}",
        "AWS::KMS::Key": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{own}",
        "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{own}",
        "AWS::Logs::LogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{own}:*",
    }
    if kind == "AWS::SecretsManager::Secret":
        return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{own}-abcdef"
    if kind == "AWS::SNS::Topic":
        return f"arn:aws:sns:{REGION}:{ACCOUNT}:{own}"
    stem = forms.get(kind, f"arn:aws:other:{REGION}:{ACCOUNT}:{own}")
    return f"{stem}/stream/1" if attribute == "StreamArn" else stem
