"""Every command in one table: what `hanse --help` shows, and where the code is. Nothing is imported for it.

A command is a typer function; it is imported, and typer with it, only once it has been called.
"""

from dataclasses import dataclass

VERSION = "0.1"


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        words: as typed behind `hanse`; three at most.
        summary: one line.
        examples: as typed, without `hanse`.
        function: `module:function` below `hanse.cli`.
    """

    words: str
    summary: str
    examples: tuple[str, ...]
    function: str


GROUPS = {
    "federation": "Make a federation: its authority, its server, its first person.",
    "server": "The coordinator: it plans rounds and aggregates, and never sees data.",
    "edge": "A group's aggregator: a server to its members, a site to the federation above.",
    "site": "One organisation's agent, next to its data. Only dials out.",
    "person": "People who submit jobs or run the federation.",
    "stats": "Questions to the sites, without training; no site tells a small number.",
    "job": "What has been submitted.",
    "deploy": "Federations on machines of others: without a server on AWS, sites in SageMaker.",
    "audit": "What has been decided, by whom, in an order that cannot be changed.",
}

COMMANDS = (
    Command(
        "demo",
        "Train across four hospitals on this machine: one server, four sites, five processes.",
        (
            "demo",
            "demo breast-cancer --rounds 5 --open",
            "demo heart-disease --data ~/heart_disease",
            "demo --aws http://127.0.0.1:4566",
        ),
        "demo:demo",
    ),
    Command(
        "run",
        "Submit an app to a federation, follow it, save the result.",
        (
            "run app.py",
            "run app.py:tuned --site luebeck --site bergen --output model.safetensors --report report.html",
            "run app.py --role guest=bank --role host=shop",
        ),
        "run:run",
    ),
    Command(
        "explain",
        "Say what an app of roles or of groups guarantees, and who learns what about whom.",
        ("explain app.py", "explain app.py --json"),
        "explain:explain",
    ),
    Command(
        "federation init",
        "Make a federation: authority, server, first person, join tokens for sites.",
        ("federation init hospitals --site luebeck --site bergen", "federation init hospitals --host fl.example.org"),
        "federation:init",
    ),
    Command(
        "server start",
        "Serve until Ctrl-C. Jobs that were at work go on.",
        ("server start --directory hospitals",),
        "server:start",
    ),
    Command(
        "edge start",
        "Lead a group in jobs of the federation above, until Ctrl-C.",
        ("edge start --directory north", "edge start --directory north --site north/above"),
        "edge:start",
    ),
    Command(
        "site invite",
        "A join token for a new site (as admin).",
        ("site invite riga", "site invite riga --hours 72"),
        "site:invite",
    ),
    Command(
        "site join",
        "Join a federation with a token, or with the admission that answers a request.",
        ("site join hansejoin1… --directory luebeck", "site join luebeck-admission.json --directory luebeck"),
        "site:join",
    ),
    Command("site start", "Take part until Ctrl-C.", ("site start --directory luebeck",), "site:start"),
    Command(
        "site status",
        "What the agent in this directory is doing.",
        ("site status --directory luebeck", "site status --json"),
        "site:status",
    ),
    Command(
        "site approve",
        "Let a held job run here; without JOB, list what is held.",
        ("site approve", "site approve 0k3v… --directory luebeck"),
        "site:approve",
    ),
    Command("site refuse", "Say no to a held job.", ("site refuse 0k3v… --reason 'not our study'",), "site:refuse"),
    Command(
        "site list", "Sites of the federation and where they are.", ("site list", "site list --json"), "site:list_"
    ),
    Command("site revoke", "Let a site in no more (as admin).", ("site revoke riga",), "site:revoke"),
    Command(
        "person add",
        "A join token for a new person (as admin).",
        ("person add anna", "person add anna --role admin"),
        "person:add",
    ),
    Command(
        "person join",
        "Join a federation with a token or an admission; writes federation.yaml.",
        ("person join hansejoin1… --directory anna", "person join anna-admission.json --directory anna"),
        "person:join",
    ),
    Command(
        "person request",
        "Make your keys, and a request to an operator who has no server.",
        ("person request north anna --directory anna",),
        "person:request",
    ),
    Command("person list", "People of the federation.", ("person list", "person list --json"), "person:list_"),
    Command("person revoke", "Let a person in no more (as admin).", ("person revoke anna",), "person:revoke"),
    Command(
        "stats describe",
        "Count, mean, deviation and quartiles of columns.",
        (
            "stats describe age bmi --data patients --by sex",
            "stats describe age --data patients --no-order --json",
        ),
        "stats:describe",
    ),
    Command(
        "stats quantiles",
        "Quantiles of columns.",
        ("stats quantiles age --data patients --q 0.5 --q 0.9",),
        "stats:quantiles",
    ),
    Command(
        "stats histogram",
        "How many rows have values between edges.",
        ("stats histogram age --data patients --edges 0,40,60,80",),
        "stats:histogram",
    ),
    Command(
        "stats correlation",
        "How columns move together.",
        ("stats correlation age bmi --data patients",),
        "stats:correlation",
    ),
    Command(
        "stats crosstab",
        "How many rows have each pair of values, with a test.",
        ("stats crosstab sex stage --data patients",),
        "stats:crosstab",
    ),
    Command(
        "stats top",
        "The most frequent values of a column.",
        ("stats top diagnosis --data patients --number 20",),
        "stats:top",
    ),
    Command(
        "stats survival",
        "Survival curves and the log-rank test.",
        ("stats survival days died --data patients --by arm --report survival.html",),
        "stats:survival",
    ),
    Command("job list", "Jobs, newest first.", ("job list", "job list --json"), "job:list_"),
    Command("job show", "One job: state, sites, settings.", ("job show 0k3v…", "job show 0k3v… --json"), "job:show"),
    Command(
        "job logs",
        "What has happened in a job, line by line.",
        ("job logs 0k3v…", "job logs 0k3v… --follow"),
        "job:logs",
    ),
    Command(
        "job result",
        "Fetch a job's model and report.",
        ("job result 0k3v… --output model.safetensors --report report.html",),
        "job:result",
    ),
    Command("job cancel", "End a job.", ("job cancel 0k3v…",), "job:cancel"),
    Command("job remove", "Forget jobs that are over.", ("job remove 0k3v… --yes",), "job:remove"),
    Command("job resume", "Take up a job that has stopped.", ("job resume 0k3v…",), "job:resume"),
    Command(
        "deploy aws init",
        "Make a federation without a server: authority, keys, federation.yaml.",
        ("deploy aws init north/federation.yaml --region eu-central-1 --site luebeck --site bergen",),
        "deploy_aws:init",
    ),
    Command(
        "deploy aws deploy",
        "Bring federation.yaml about on AWS, or on an emulator; also after a change.",
        (
            "deploy aws deploy north/federation.yaml",
            "deploy aws deploy north/federation.yaml --profile north",
            "deploy aws deploy north/federation.yaml --endpoint-url http://127.0.0.1:4566",
        ),
        "deploy_aws:deploy",
    ),
    Command(
        "deploy aws diff",
        "What deploying would change, and what would be made anew.",
        ("deploy aws diff north/federation.yaml", "deploy aws diff north/federation.yaml --json"),
        "deploy_aws:diff",
    ),
    Command(
        "deploy aws admit",
        "Let a site or a person in: its request becomes an admission.",
        ("deploy aws admit luebeck-request.json north/federation.yaml",),
        "deploy_aws:admit",
    ),
    Command(
        "deploy aws revoke",
        "Let a site or a person in no more.",
        ("deploy aws revoke site riga north/federation.yaml",),
        "deploy_aws:revoke",
    ),
    Command(
        "deploy aws members",
        "Every site and person, and until when their certificates hold.",
        ("deploy aws members north/federation.yaml", "deploy aws members north/federation.yaml --json"),
        "deploy_aws:members",
    ),
    Command(
        "deploy aws package",
        "The functions' zip and all templates, to deploy by other means.",
        (
            "deploy aws package north/federation.yaml --output out",
            "deploy aws package north/federation.yaml --output out --lock requirements-dev.lock",
        ),
        "deploy_aws:package",
    ),
    Command(
        "deploy aws cost",
        "Calls and dollars of a round, for each site.",
        ("deploy aws cost north/federation.yaml --rounds 100", "deploy aws cost north/federation.yaml --model-mb 400"),
        "deploy_aws:cost",
    ),
    Command(
        "deploy aws destroy",
        "Remove everything from AWS, models too.",
        ("deploy aws destroy north/federation.yaml", "deploy aws destroy north/federation.yaml --yes"),
        "deploy_aws:destroy",
    ),
    Command(
        "site request",
        "Make a site's keys, and a request to an operator who has no server.",
        ("site request north luebeck --directory luebeck",),
        "site:request",
    ),
    Command(
        "site pack",
        "A site's identity as one text, for a secret that training jobs read.",
        ("site pack --directory north > north.secret",),
        "site:pack",
    ),
    Command(
        "deploy sagemaker launch",
        "Training jobs in other accounts, a federation over them, models on both sides.",
        ("deploy sagemaker launch federation.yaml", "deploy sagemaker launch federation.yaml --local"),
        "deploy_sagemaker:launch",
    ),
    Command(
        "deploy sagemaker plan",
        "What launching would create, and what it may cost.",
        ("deploy sagemaker plan federation.yaml", "deploy sagemaker plan federation.yaml --json"),
        "deploy_sagemaker:plan",
    ),
    Command(
        "deploy sagemaker template",
        "CloudFormation for one organisation's account, or for the server's.",
        (
            "deploy sagemaker template federation.yaml --site north > north.json",
            "deploy sagemaker template federation.yaml > server.json",
        ),
        "deploy_sagemaker:template",
    ),
    Command(
        "deploy sagemaker status",
        "What the last launch is doing.",
        ("deploy sagemaker status federation.yaml",),
        "deploy_sagemaker:status",
    ),
    Command(
        "deploy sagemaker stop",
        "Stop every training job of the last launch.",
        ("deploy sagemaker stop federation.yaml",),
        "deploy_sagemaker:stop",
    ),
    Command(
        "audit verify",
        "Check an audit log offline: signatures, order, nothing missing.",
        (
            "audit verify audit.jsonl --membership hospitals/server",
            "audit verify audit.jsonl --key server.pub --head head.json",
        ),
        "audit:verify",
    ),
    Command(
        "audit head",
        "The signed end of the server's audit log, to be kept elsewhere (as admin).",
        ("audit head > head.json",),
        "audit:head",
    ),
    Command(
        "doctor",
        "Find out what is wrong with a directory, a certificate, a port, a clock, and what to do.",
        ("doctor --directory luebeck", "doctor --json"),
        "doctor:doctor",
    ),
)
