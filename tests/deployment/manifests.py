"""Holds Kubernetes manifests to the schemas of a release, and prints the expressions of a file of Prometheus rules.

python manifests.py RELEASE RULES MANIFEST..."""

import json
import sys

import kubernetes_validate
import yaml

release, rules, *manifests = sys.argv[1:]
kinds, containers = [], []
for path in manifests:
    with open(path) as file:
        for document in yaml.safe_load_all(file):
            kubernetes_validate.validate(document, release, strict=True)
            kinds.append(document["kind"])
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            containers += [
                {**container.get("securityContext", {}), "limits": container.get("resources", {}).get("limits")}
                for container in pod.get("initContainers", []) + pod.get("containers", [])
            ]
with open(rules) as file:
    alerts = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
for alert in alerts:
    assert alert["annotations"].keys() == {"summary", "remedy"}, alert
print(json.dumps({"kinds": kinds, "containers": containers, "expressions": [alert["expr"] for alert in alerts]}))
