"""Deployments, limits and the example installations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client

from aethernet.errors import UsageError
from aethernet.release.spec import read_spec
from aethernet.store.store import Store
from flows.deploying import deploy, queue_of
from flows.packing import named_in, opened_spec, pack_bundle, pack_spec, place_bundle
from flows.session import LIMITS, limited, located
from tests.support.releases import flip_byte, snapshot
from tests.support.workplace import REPOSITORY, Finished, Workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deployed(engine: None) -> list[str]:
    return deploy("testing", ["NVIDIA GeForce RTX 4090"])


def _deployment(name: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name)


def test_deployments_are_registered_with_parameters_that_read_well(deployed: list[str]) -> None:
    assert {"release/testing", "release-all/testing", "qat-finetune/testing", "reverify/testing"} <= set(deployed)
    for name in deployed[:-1]:
        found = _deployment(name)
        assert found.description
        assert found.work_pool_name == "testing"
        assert found.enforce_parameter_schema
        for parameter, schema in found.parameter_openapi_schema["properties"].items():
            assert schema.get("description"), f"{name}: {parameter} has no description"

    release = _deployment("release/testing").parameter_openapi_schema
    assert release["definitions"]["Precision"]["enum"] == ["fp32", "fp16", "int8"]
    assert "required" not in release  # a click makes the sample
    assert next(iter(release["properties"])) == "spec"
    recipe = _deployment("qat-finetune/testing").parameter_openapi_schema["definitions"]["FinetuningRecipe"]
    assert recipe["properties"]["steps"]["default"] == 500


def test_engine_builds_have_a_queue_by_the_name_of_the_card(deployed: list[str]) -> None:
    assert queue_of("NVIDIA GeForce RTX 4090") == "nvidia-geforce-rtx-4090"
    assert deployed[-1] == "build-engines/nvidia-geforce-rtx-4090"
    assert _deployment(deployed[-1]).work_queue_name == "nvidia-geforce-rtx-4090"


def test_relative_paths_are_the_checkouts_where_a_worker_runs_us(monkeypatch: pytest.MonkeyPatch) -> None:
    relative, absolute = Path("releases/aether_tiny_2x"), Path("/elsewhere/spec")
    assert located(relative) == relative

    monkeypatch.setattr("prefect.runtime.deployment.id", "some-deployment")

    assert located(relative) == REPOSITORY / relative
    assert located(absolute) == absolute


def test_limits_are_created_and_keep_what_was_set_by_hand(deployed: list[str]) -> None:
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("aethernet-gpu", 3)
        deploy("testing", releases=7)
        found = {limit.name: limit.limit for limit in client.read_global_concurrency_limits(limit=200)}

    assert found["aethernet-gpu"] == 3
    assert found["aethernet-releases"] == 7
    assert LIMITS.keys() <= found.keys()


def test_a_limit_that_is_missing_lets_nobody_in(engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect.runtime.deployment.id", "some-deployment")

    with pytest.raises(UsageError, match="aethernet-nowhere") as refused, limited("aethernet-nowhere"):
        pytest.fail("was let in")

    assert "python -m flows deploy" in refused.value.hint
    monkeypatch.setattr("prefect.runtime.deployment.id", None)
    with limited("aethernet-nowhere"):  # nobody to share with
        pass


def test_prefects_own_command_takes_prefect_yaml_as_it_stands(deployed: list[str]) -> None:
    from flows.deploying import _environment

    with get_client(sync_client=True) as client:
        from prefect.client.schemas.actions import WorkPoolCreate

        client.create_work_pool(WorkPoolCreate(name="aethernet", type="process"), overwrite=True)
    finished = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=REPOSITORY,
        env=_environment(),
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert _deployment("release/aethernet").entrypoint == "flows.deployments.release_on_worker"


# --- specs and releases on their way ---------------------------------------------------------------------------------


def test_a_packed_spec_is_the_same_spec_elsewhere(first_release: tuple[Workplace, Finished], tmp_path: Path) -> None:
    spec, store = read_spec(first_release[0].spec), Store(tmp_path / "store")

    packed = pack_spec(spec, store)
    assert named_in(packed) == f"{spec.name} {spec.version}"
    assert named_in("releases/aether_tiny_2x/release.toml") == named_in("releases/aether_tiny_2x") == "aether_tiny_2x"
    with opened_spec(packed, store) as found:
        paths = {"checkpoint", "images", "hr"}
        assert found.model_dump(exclude=paths) == spec.model_dump(exclude=paths)
        assert found.checkpoint.read_bytes() == spec.checkpoint.read_bytes()
        assert found.checkpoint.name == spec.checkpoint.name
        assert found.images is not None
        assert spec.images is not None
        assert snapshot(found.images) == snapshot(spec.images)
    assert not found.checkpoint.exists()


def test_a_packed_release_arrives_whole_or_not(first_release: tuple[Workplace, Finished], tmp_path: Path) -> None:
    bundle, store = first_release[0].bundle, Store(tmp_path / "store")
    packed = pack_bundle(bundle, store)

    placed = place_bundle(packed, tmp_path / "out", store)
    assert snapshot(placed) == snapshot(bundle)
    flip_byte(placed / "config.json")
    assert snapshot(place_bundle(packed, tmp_path / "out", store)) == snapshot(bundle)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [bundle.name]

    spoilt = tmp_path / "spoilt" / bundle.name
    import shutil

    from aethernet.errors import BundleError

    shutil.copytree(bundle, spoilt)
    flip_byte(spoilt / "config.json")
    with pytest.raises(BundleError, match="not whole"):
        place_bundle(pack_bundle(spoilt, store), tmp_path / "other", store)
    assert list((tmp_path / "other").iterdir()) == []


# --- examples --------------------------------------------------------------------------------------------------------


def test_the_compose_file_starts_commands_that_exist() -> None:
    content = yaml.safe_load((REPOSITORY / "deploy" / "docker-compose.yml").read_text())
    services = content["services"]

    assert set(services) == {"database", "server", "storage", "deploy", "worker"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in content["volumes"]
    assert services["worker"]["image"] == services["deploy"]["image"]
    assert services["server"]["image"].startswith(f"prefecthq/prefect:{_pinned('prefect')}-")


def test_the_kubernetes_example_fits_together() -> None:
    documents = list(yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes.yml").read_text()))

    kinds = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(kinds)) == len(kinds)
    for document in documents:
        assert document["apiVersion"]
        if document["kind"] == "Deployment":
            template = document["spec"]["template"]
            assert document["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    server = next(one for one in documents if one["metadata"]["name"] == "prefect" and one["kind"] == "Deployment")
    image = server["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.startswith(f"prefecthq/prefect:{_pinned('prefect')}-")


def _pinned(package: str) -> str:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def test_the_image_copies_what_there_is_and_all_that_its_package_is_built_from() -> None:
    copied: set[str] = set()
    for line in (REPOSITORY / "deploy" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied |= set(line.split()[1:-1])

    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    assert {
        "pyproject.toml",
        "setup.py",
        "prefect.yaml",
        "aethernet",
        "aethernet_workflows",
        "flows",
        "tasks",
    } <= copied
