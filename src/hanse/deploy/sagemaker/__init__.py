"""Federations over SageMaker training jobs in other organisations' accounts.

settings.py   the file that `hanse deploy sagemaker` is given
request.py    from settings to what `CreateTrainingJob` is asked; names, tags, limits
contract.py   what a training container finds: files under /opt/ml and variables
runner.py     executes that contract in a local process
jobs.py       training jobs wherever they run; what they are doing, in plain words
accounts.py   training jobs in accounts of others: AssumeRole and boto3
entry.py      what runs inside the container: a site, for one job
identity.py   joining by AWS identity
launch.py     the whole: server, jobs, app, models, teardown
documents.py  roles and stacks
"""
