# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.check."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]

WIDE = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  egress:
    - toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*.co.uk"}]}}]
"""


def test_check_says_that_a_good_file_is_valid(run: Run, good: Path) -> None:
    result = run("rules", "check", str(good))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1 file, 1 policy: valid\n", "")


def test_check_names_file_line_and_column_and_exits_with_one(run: Run, bad: Path) -> None:
    result = run("rules", "check", str(bad))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{bad}:10:7: ")
    assert "toCIDRR" in result.stdout
    assert result.stdout.endswith("1 problem in 1 file\n")


def test_check_reads_standard_input(run: Run, good: Path, bad: Path) -> None:
    assert run("rules", "check", "-", stdin=good.read_text()).exit_code == 0
    result = run("rules", "check", "-", stdin=bad.read_text())
    assert result.exit_code == 1
    assert result.stdout.startswith("<stdin>:10:7: ")


def test_check_as_json_is_for_programs(run: Run, good: Path, bad: Path) -> None:
    found = json.loads(run("rules", "check", str(good), "-o", "json").stdout)
    assert found["valid"] is True
    assert found["files"] == [str(good)]
    assert [policy["kind"] for policy in found["policies"]] == ["CiliumNetworkPolicy"]
    result = run("rules", "check", str(bad), "-o", "json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["path"], problem["line"], problem["column"]) == (str(bad), 10, 7)


def test_check_reports_what_it_cannot_read(run: Run, good: Path) -> None:
    result = run("rules", "check", str(good), "/no/such.yaml")
    assert result.exit_code == 1
    assert "/no/such.yaml: cannot be read: No such file or directory" in result.stdout


def test_check_warns_of_what_holds_no_policy_and_fails_only_if_strict(run: Run, good: Path, tmp_path: Path) -> None:
    folder, blank, group = tmp_path / "folder", tmp_path / "blank.yaml", tmp_path / "group.yaml"
    folder.mkdir()
    blank.write_text("# nothing\n---\n")
    group.write_text(
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [192.0.2.0/24]}\n"
    )
    result = run("rules", "check", str(folder), str(blank), str(group))
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            f"{folder}: warning: there is no *.yaml or *.yml in it [no-policy]",
            f"{blank}: warning: there is no policy in it [no-policy]",
            f"{group}: warning: there is no policy in it [no-policy]",
            "2 files, 0 policies: valid, 3 warnings",
        ],
    )
    assert run("rules", "check", "--strict", str(blank)).exit_code == 1
    beside = run("rules", "check", "--strict", str(good), str(group))
    assert (beside.exit_code, beside.stdout) == (0, "2 files, 1 policy: valid\n")


def test_check_without_files_takes_the_configured_folder(run: Run, good: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"policies: {good.parent}\n")
    assert run("--config", str(config), "rules", "check").stdout == "1 file, 1 policy: valid\n"


def test_a_warning_names_its_place_and_rule_and_fails_only_a_strict_check(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(WIDE)
    result = run("rules", "check", str(path))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{path}:7:85: warning: *.co.uk is wider than an organisation: anyone may have a name below co.uk [wide-name]",
        "  hint: name the domain: *.your-domain.co.uk",
        "1 file, 1 policy: valid, 1 warning",
    ]
    assert run("rules", "check", "--strict", str(path)).exit_code == 1
    (warning,) = json.loads(run("rules", "check", str(path), "-o", "json").stdout)["warnings"]
    assert (warning["rule"], warning["severity"], warning["line"], warning["column"]) == ("wide-name", "warning", 7, 85)
    (result_,) = json.loads(run("rules", "check", str(path), "-o", "sarif").stdout)["runs"][0]["results"]
    assert (result_["ruleId"], result_["level"]) == ("wide-name", "warning")


def test_a_cluster_shows_what_selects_nothing(run: Run, good: Path, tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    pods.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: other}}\n")
    result = run("rules", "check", str(good), "--cluster", str(pods))
    assert f"{good}:1:1: warning: default/web selects nothing in the cluster [selects-nothing]" in result.stdout
    assert run("rules", "check", str(good), "--cluster", "/no/such.yaml").exit_code == 2
