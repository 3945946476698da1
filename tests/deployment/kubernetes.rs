use std::{collections::BTreeMap, path::Path, time::Duration};

use harness::{binary, installed::python_packages, results::ROOT, skip};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// The program that puts manifests together, as a Go module.
const KUSTOMIZE: &str = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1";

/// The package with the schemas, and the version of Kubernetes.
const VALIDATE: &str = "kubernetes-validate==1.34.1";
const KUBERNETES: &str = "1.34";

/// The time that Go may take to build kustomize, which it does once.
const BUILDING: Duration = Duration::from_secs(300);

/// Validates objects, and prints them as a list in JSON. Objects of other projects have no schema here.
const SCRIPT: &str = r#"
import json, sys, yaml, kubernetes_validate
objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
for one in objects:
    if not one["apiVersion"].startswith("spire.spiffe.io/"):
        kubernetes_validate.validate(one, sys.argv[1], strict=True)
json.dump(objects, sys.stdout)
"#;

/// Returns the objects of an overlay, which are valid. Returns `None` if a tool is missing.
async fn objects(overlay: &str, packages: &Path) -> Option<Vec<Value>> {
    let overlay = Path::new(ROOT).join("deploy/kubernetes").join(overlay);
    let mut kustomize = Command::new("go");
    kustomize.args(["run", KUSTOMIZE, "build"]).arg(overlay);
    let Ok(built) = timeout(BUILDING, kustomize.output())
        .await
        .expect("in time")
    else {
        skip("Go is not installed (https://go.dev/dl/)");
        return None;
    };
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{errors}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("manifests.yaml");
    std::fs::write(&file, built.stdout).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, KUBERNETES]);
    python.env("PYTHONPATH", packages);
    python.stdin(std::fs::File::open(&file).unwrap());
    let valid = python.output().await.unwrap();
    let errors = String::from_utf8_lossy(&valid.stderr);
    assert!(valid.status.success(), "{errors}");
    Some(serde_json::from_slice(&valid.stdout).unwrap())
}

/// Returns the containers of a pod's template by their names, the sidecars included.
fn containers(object: &Value) -> BTreeMap<String, &Value> {
    let spec = &object["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
    let all = lists.into_iter().flatten().flatten();
    all.map(|one| (one["name"].as_str().unwrap().to_owned(), one))
        .collect()
}

/// Checks that a pod fulfils the restricted standard.
fn check_restricted(object: &Value) {
    let spec = &object["spec"]["template"]["spec"];
    let pod = &spec["securityContext"];
    assert_eq!(pod["runAsNonRoot"], true);
    assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(spec["automountServiceAccountToken"], false);
    for (name, container) in containers(object) {
        let own = &container["securityContext"];
        assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(own["capabilities"]["drop"][0], "ALL", "{name}");
        assert!(
            container["resources"]["limits"]["memory"].is_string(),
            "{name}"
        );
    }
    let volumes = spec["volumes"].as_array().unwrap();
    assert!(
        volumes
            .iter()
            .any(|one| one["csi"]["driver"] == "csi.spiffe.io")
    );
}

/// Checks that the binary knows the flags of a container, whose probes ask the admin listener.
async fn check_flags(container: &Value) {
    let args: Vec<_> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect();
    let (program, flags) = args.split_first().unwrap();
    let mut command = Command::new(binary(program));
    let output = command.args(flags).arg("--help").output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    assert!(
        flags.iter().any(|flag| flag.starts_with("--admin=")),
        "{args:?}"
    );
    for (probe, path) in [("readinessProbe", "/ready"), ("livenessProbe", "/live")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "admin");
    }
}

#[tokio::test]
async fn manifests_are_valid_and_their_pods_restricted() {
    let Some(packages) = python_packages(env!("CARGO_TARGET_TMPDIR"), &[VALIDATE]).await else {
        return;
    };
    for (overlay, kinds) in [
        (
            "gateway",
            &[
                "Service",
                "PodDisruptionBudget",
                "HorizontalPodAutoscaler",
                "NetworkPolicy",
                "ClusterSPIFFEID",
            ] as &[&str],
        ),
        (
            "sidecar",
            &["Service", "ConfigMap", "NetworkPolicy", "ClusterSPIFFEID"],
        ),
    ] {
        let Some(objects) = objects(overlay, &packages).await else {
            return;
        };
        for kind in kinds {
            assert!(
                objects.iter().any(|one| one["kind"] == *kind),
                "{overlay}: {kind}"
            );
        }
        let deployments: Vec<_> = objects
            .iter()
            .filter(|one| one["kind"] == "Deployment")
            .collect();
        assert!(!deployments.is_empty());
        for deployment in deployments {
            check_restricted(deployment);
            let mut ours = 0;
            for container in containers(deployment).values() {
                let image = container["image"].as_str().unwrap();
                if image.contains("/spiffe-jwt-proxy:") {
                    check_flags(container).await;
                    ours += 1;
                }
            }
            assert_eq!(ours, 1, "{}", deployment["metadata"]["name"]);
        }
    }
}
