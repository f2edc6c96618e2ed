"""The files for CloudFormation and Terraform describe the very table that `openmcp state create` makes."""

import json
import re
import secrets
from pathlib import Path

import yaml

from openmcp.sidecar.state import dynamoclient, dynamodb, dynamoitems
from openmcp.sidecar.state.dynamoitems import TTL_ATTRIBUTE, table
from tests.contracts.requests import NOW, request
from tests.state.test_dynamodb import REGION, SESSION, moto_url, store_of

__all__ = ["moto_url"]

FOLDER = Path(__file__).parents[2] / "manifests" / "dynamodb"
TEMPLATE = (FOLDER / "cloudformation.yaml").read_text()
RESOURCES = yaml.safe_load(TEMPLATE)["Resources"]
TERRAFORM = json.loads((FOLDER / "openmcp.tf.json").read_text())["resource"]
EXTRAS = {"TimeToLiveSpecification", "PointInTimeRecoverySpecification"}


def operations():
    """What the code asks DynamoDB for, as IAM names it; making the table apart."""
    sources = "".join(Path(module.__file__).read_text() for module in (dynamoclient, dynamodb, dynamoitems))
    named = re.findall(r'"((?:get|put|update)_item|query)"|client\.(batch_\w+_item|describe_\w+)\(', sources)
    return {"dynamodb:" + "".join(map(str.capitalize, (one or other).split("_"))) for one, other in named}


def test_cloudformation_describes_the_table():
    properties = dict(RESOURCES["Table"]["Properties"])
    extras = {name: properties.pop(name) for name in EXTRAS}
    assert properties == table({"Ref": "TableName"})  # type: ignore[arg-type]  # stands where the name stands
    assert extras == {
        "TimeToLiveSpecification": {"AttributeName": TTL_ATTRIBUTE, "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }


def test_terraform_describes_the_table():
    made, wanted = TERRAFORM["aws_dynamodb_table"]["openmcp"], table("")
    types = {one["AttributeName"]: one["AttributeType"] for one in wanted["AttributeDefinitions"]}
    assert {one["name"]: one["type"] for one in made["attribute"]} == types
    assert (made["billing_mode"], made["hash_key"]) == (wanted["BillingMode"], wanted["KeySchema"][0]["AttributeName"])
    indexes = [
        {
            "IndexName": one["name"],
            "KeySchema": [
                {"AttributeName": one[key], "KeyType": kind}
                for key, kind in (("hash_key", "HASH"), ("range_key", "RANGE"))
                if key in one
            ],
            "Projection": {"ProjectionType": one["projection_type"]},
        }
        for one in made["global_secondary_index"]
    ]
    assert indexes == wanted["GlobalSecondaryIndexes"]
    assert made["ttl"] == [{"attribute_name": TTL_ATTRIBUTE, "enabled": True}]
    assert made["point_in_time_recovery"] == [{"enabled": True}]


def test_the_role_may_do_what_is_done_and_nothing_else():
    (statement,) = RESOURCES["Access"]["Properties"]["PolicyDocument"]["Statement"]
    assert len(operations()) == 6
    assert set(statement["Action"]) == operations()
    policy = TERRAFORM["aws_iam_policy"]["openmcp"]["policy"]
    assert set(re.findall(r"dynamodb:\w+", policy)) == operations()


async def test_the_stack_has_nothing_left_to_create(moto_url):
    name = f"t{secrets.token_hex(6)}"
    stacks = SESSION.create_client("cloudformation", region_name=REGION, endpoint_url=moto_url)
    stacks.create_stack(
        StackName=name,
        TemplateBody=TEMPLATE,
        Parameters=[{"ParameterKey": "TableName", "ParameterValue": name}],
        Capabilities=["CAPABILITY_IAM"],
    )
    store = store_of(moto_url, name)
    try:
        assert (await store.create()).startswith(f"table {name} is there")
        assert (await store.open(request(), NOW))[1]
    finally:
        await store.close()
