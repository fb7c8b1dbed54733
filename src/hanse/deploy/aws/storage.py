"""What a federation keeps: a key, the bucket and the bucket of its access logs, the ledger's table, a secret."""

from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.template import (
    Resource,
    Resources,
    arn,
    att,
    deny_plaintext,
    policy,
    ref,
    sub,
    tagged,
    without_check,
)

KEY, BUCKET, LOG_BUCKET, TABLE, SECRET = "Key", "Bucket", "AccessLogs", "Table", "ServerKeys"


def storage(deployment: Deployment, tags: dict[str, str]) -> Resources:
    """Everything that holds something; all of it encrypted under the federation's key."""
    return {
        KEY: _key(deployment, tags),
        "KeyAlias": {
            "Type": "AWS::KMS::Alias",
            "Properties": {"AliasName": f"alias/hanse-{deployment.federation}", "TargetKeyId": ref(KEY)},
        },
        LOG_BUCKET: _log_bucket(deployment, tags),
        f"{LOG_BUCKET}Policy": _log_bucket_policy(),
        BUCKET: _bucket(deployment, tags),
        f"{BUCKET}Policy": _bucket_policy(),
        TABLE: _table(deployment, tags),
        SECRET: _secret(deployment, tags),
    }


def log_group(name: str, deployment: Deployment, tags: dict[str, str]) -> Resource:
    """A log group under the federation's key that forgets after `log_days`."""
    return {
        "Type": "AWS::Logs::LogGroup",
        "UpdateReplacePolicy": "Delete",
        "DeletionPolicy": "Delete",
        "Properties": {
            "LogGroupName": f"/hanse/{deployment.federation}/{name}",
            "RetentionInDays": deployment.log_days,
            "KmsKeyId": att(KEY),
            "Tags": tagged(tags),
        },
    }


def _key(deployment: Deployment, tags: dict[str, str]) -> Resource:
    name = deployment.federation
    owner = {
        "Sid": "AccountDecides",  # rights are then given by the roles' own policies
        "Effect": "Allow",
        "Principal": {"AWS": sub("arn:${AWS::Partition}:iam::${AWS::AccountId}:root")},
        "Action": "kms:*",
        "Resource": "*",
    }
    logs = {
        "Sid": "Logs",
        "Effect": "Allow",
        "Principal": {"Service": sub("logs.${AWS::Region}.amazonaws.com")},
        "Action": ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
        "Resource": "*",
        "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": arn("logs", f"log-group:/hanse/{name}/*")}},
    }
    topics = {
        "Sid": "TopicsAndAlarms",
        "Effect": "Allow",
        "Principal": {"Service": ["sns.amazonaws.com", "cloudwatch.amazonaws.com"]},
        "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
        "Resource": "*",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")},
            "ArnLike": {"aws:SourceArn": [arn("sns", f"hanse-{name}*"), arn("cloudwatch", f"alarm:hanse-{name}-*")]},
        },
    }
    return {
        "Type": "AWS::KMS::Key",
        "UpdateReplacePolicy": "Retain",
        "DeletionPolicy": "Delete",
        "Properties": {
            "Description": f"Everything that Hanse keeps for the federation {name}",
            "EnableKeyRotation": True,
            "PendingWindowInDays": 7,
            "KeyPolicy": policy(owner, logs, topics),
            "Tags": tagged(tags),
        },
    }


def _closed() -> dict[str, object]:
    """What every bucket has: nothing public, no access lists, old versions kept."""
    return {
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "VersioningConfiguration": {"Status": "Enabled"},
    }


def _bucket(deployment: Deployment, tags: dict[str, str]) -> Resource:
    rules = [
        {
            "Id": "unfinished",
            "Status": "Enabled",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "ExpiredObjectDeleteMarker": True,
        },
        {
            "Id": "jobs",
            "Status": "Enabled",
            "Prefix": f"v1/{deployment.federation}/",
            "ExpirationInDays": deployment.keep_days,
        },
    ]
    return {
        "Type": "AWS::S3::Bucket",
        "UpdateReplacePolicy": "Retain",
        "DeletionPolicy": "Delete",
        "Properties": {
            **_closed(),
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": att(KEY)},
                    }
                ]
            },
            "LifecycleConfiguration": {"Rules": rules},
            "LoggingConfiguration": {"DestinationBucketName": ref(LOG_BUCKET), "LogFilePrefix": "bucket/"},
            "Tags": tagged(tags),
        },
    }


def _bucket_policy() -> Resource:
    everything = [att(BUCKET), sub(f"${{{BUCKET}.Arn}}/*")]
    other_key = {
        "Sid": "OneKeyOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": sub(f"${{{BUCKET}.Arn}}/*"),
        # A put that names no key takes the bucket's own, and carries no such header.
        "Condition": {
            "StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption-aws-kms-key-id": att(KEY)},
            "Null": {"s3:x-amz-server-side-encryption-aws-kms-key-id": "false"},
        },
    }
    return {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": ref(BUCKET),
            "PolicyDocument": policy(deny_plaintext(everything, "s3:*"), _old_tls(everything), other_key),
        },
    }


def _old_tls(resources: object) -> dict[str, object]:
    return {
        "Sid": "NewTlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": resources,
        "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}},
    }


def _log_bucket(deployment: Deployment, tags: dict[str, str]) -> Resource:
    bucket: Resource = {
        "Type": "AWS::S3::Bucket",
        "UpdateReplacePolicy": "Retain",
        "DeletionPolicy": "Delete",
        "Properties": {
            **_closed(),
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "Id": "old",
                        "Status": "Enabled",
                        "ExpirationInDays": deployment.log_days,
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                    }
                ]
            },
            "Tags": tagged(tags),
        },
    }
    return without_check(bucket, CKV_AWS_18="It takes the access logs; logging it too would never end.")


def _log_bucket_policy() -> Resource:
    everything = [att(LOG_BUCKET), sub(f"${{{LOG_BUCKET}.Arn}}/*")]
    delivery = {
        "Sid": "AccessLogs",
        "Effect": "Allow",
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": sub(f"${{{LOG_BUCKET}.Arn}}/bucket/*"),
        "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
    }
    return {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": ref(LOG_BUCKET),
            "PolicyDocument": policy(deny_plaintext(everything, "s3:*"), _old_tls(everything), delivery),
        },
    }


def _table(deployment: Deployment, tags: dict[str, str]) -> Resource:
    return {
        "Type": "AWS::DynamoDB::Table",
        "UpdateReplacePolicy": "Retain",
        "DeletionPolicy": "Delete",
        "Properties": {
            "TableName": f"hanse-{deployment.federation}",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": "p", "AttributeType": "S"},
                {"AttributeName": "k", "AttributeType": "B"},
            ],
            "KeySchema": [
                {"AttributeName": "p", "KeyType": "HASH"},
                {"AttributeName": "k", "KeyType": "RANGE"},
            ],
            **({"StreamSpecification": {"StreamViewType": "NEW_IMAGE"}} if deployment.stream else {}),
            "TimeToLiveSpecification": {"AttributeName": "x", "Enabled": True},
            "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
            "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": att(KEY)},
            "Tags": tagged(tags),
        },
    }


def _secret(deployment: Deployment, tags: dict[str, str]) -> Resource:
    secret: Resource = {
        "Type": "AWS::SecretsManager::Secret",
        "UpdateReplacePolicy": "Retain",
        "DeletionPolicy": "Delete",
        "Properties": {
            "Name": f"hanse/{deployment.federation}/server",
            "Description": "The server's keys; written by `hanse deploy aws deploy`, never by a template",
            "KmsKeyId": att(KEY),
            "Tags": tagged(tags),
        },
    }
    return without_check(
        secret,
        CKV2_AWS_57="A certificate of the federation's authority, whose key is not on AWS: renewed by deploying.",
    )
