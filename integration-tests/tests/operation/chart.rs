//! The Helm chart, rendered by Helm with the values of its folder `ci`: what comes out fits together, and holds a config that rowbust takes.
//! Where there is no Helm only the chart's files are compared with each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use rowbust::config;
use rowbust_integration_tests::compose::root;
use rowbust_servers::{Need, require};
use serde_json::{Value, json};

fn chart() -> PathBuf {
    root().join("deploy/helm/rowbust")
}

fn yaml(path: &str) -> Result<Value> {
    let text = fs::read_to_string(chart().join(path)).with_context(|| path.to_owned())?;
    Ok(serde_saphyr::from_str(&text)?)
}

/// A Helm that Go built takes the cluster for a very old one.
const CLUSTER: [&str; 2] = ["--kube-version", "1.31.0"];

struct Helm(PathBuf);

impl Helm {
    fn call(&self, args: &[&str], values: &str) -> Result<Output> {
        let values = chart().join("ci").join(values);
        let mut command = Command::new(&self.0);
        // No cluster and no settings of this machine.
        command.env("KUBECONFIG", "/dev/null").args(args);
        Ok(command.arg("--values").arg(values).output()?)
    }

    fn rendered(&self, values: &str, more: &[&str]) -> Result<Vec<Value>> {
        let chart = chart().display().to_string();
        let out = self.call(
            &[&["template", "shop", &chart, "--namespace", "caches"], &CLUSTER[..], more].concat(),
            values,
        )?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout)?;
        let parts = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
        let parts =
            parts.filter(|part| part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')));
        parts.map(|part| serde_saphyr::from_str(part).with_context(|| part.to_owned())).collect()
    }
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// Whether `labels` has all of `selector`.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .is_some_and(|all| !all.is_empty() && all.iter().all(|(name, value)| &labels[name] == value))
}

#[test]
fn it_renders_to_objects_that_fit_together() -> Result<()> {
    let Some(found) = require(&[Need::Helm]) else { return Ok(()) };
    let helm = Helm(found.helm.context("no helm")?);
    for values in ["minimal-values.yaml", "full-values.yaml"] {
        let chart = chart().display().to_string();
        let out = helm.call(&["lint", "--strict", &chart], values)?;
        ensure!(out.status.success(), "{values}: {}", String::from_utf8_lossy(&out.stdout));

        let objects = helm.rendered(values, &[])?;
        let deployment = kind(&objects, "Deployment")?;
        let pod = &deployment["spec"]["template"];
        let labels = &pod["metadata"]["labels"];
        ensure!(selects(&deployment["spec"]["selector"]["matchLabels"], labels), "{deployment}");
        ensure!(selects(&kind(&objects, "Service")?["spec"]["selector"], labels), "service");
        for object in &objects {
            let name = object["metadata"]["name"].as_str().context("no name")?;
            ensure!(name == "shop-rowbust" && object["apiVersion"].is_string(), "{object}");
        }

        let spec = &pod["spec"];
        ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{spec}");
        let container = &spec["containers"][0];
        let security = &container["securityContext"];
        ensure!(
            security["readOnlyRootFilesystem"] == true && security["allowPrivilegeEscalation"] == false,
            "{security}"
        );
        ensure!(security["capabilities"]["drop"] == json!(["ALL"]), "{security}");
        ensure!(!container["image"].as_str().unwrap_or_default().ends_with(":latest"), "{container}");
        // Every mount has its volume.
        let volumes: BTreeSet<&str> =
            spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect();
        for mount in container["volumeMounts"].as_array().context("no mounts")? {
            ensure!(mount["name"].as_str().is_some_and(|name| volumes.contains(name)), "{mount}");
        }
        // The probes ask the port that the config listens at.
        let config_map = kind(&objects, "ConfigMap")?;
        let text = config_map["data"]["rowbust.yaml"].as_str().context("no config")?;
        let parsed: Value = serde_saphyr::from_str(text)?;
        ensure!(
            parsed["admin"]["listen"] == "0.0.0.0:8321" && container["ports"][0]["containerPort"] == 8321,
            "{text}"
        );
        // And rowbust takes it.
        let variable = |name: &str| (name == "MYSQL_PASSWORD").then(|| "secret".to_owned());
        if let Err(report) = config::parse(text, std::path::Path::new("/etc/rowbust/rowbust.yaml"), &variable)
        {
            anyhow::bail!("{values}: {}", report.render(config::Style::Plain));
        }
    }
    Ok(())
}

#[test]
fn what_is_switched_on_is_there_and_what_is_wrong_is_refused() -> Result<()> {
    let Some(found) = require(&[Need::Helm]) else { return Ok(()) };
    let helm = Helm(found.helm.context("no helm")?);
    let kinds = |values: &str| -> Result<BTreeSet<String>> {
        let objects = helm.rendered(values, &[])?;
        Ok(objects.iter().filter_map(|object| object["kind"].as_str().map(ToOwned::to_owned)).collect())
    };
    let minimal = kinds("minimal-values.yaml")?;
    ensure!(
        minimal == BTreeSet::from(["ConfigMap", "Deployment", "Service", "ServiceAccount"].map(String::from)),
        "{minimal:?}"
    );
    let full = kinds("full-values.yaml")?;
    for more in ["NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"] {
        ensure!(full.contains(more), "{full:?}");
    }
    let objects = helm.rendered("full-values.yaml", &[])?;
    let deployment = kind(&objects, "Deployment")?;
    ensure!(deployment["spec"]["replicas"] == 2, "{deployment}");
    let checksum = |objects: &[Value]| -> Result<Value> {
        Ok(kind(objects, "Deployment")?["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            .clone())
    };
    let changed = helm.rendered("full-values.yaml", &["--set", "config.source.start=earliest"])?;
    ensure!(checksum(&objects)? != checksum(&changed)?, "a new config must be a new pod");

    let chart = chart().display().to_string();
    for (wrong, said) in [
        (&["--set", "replicas=2"][..], "a checkpoint that they share"),
        (&["--set", "existingClaim="], "must outlive a pod"),
        (&["--set", "adminTokenKey=token"], "existingSecret"),
        (&["--set", "replica=2"], "replica"),
        (&["--set", "image.tag=latest"], "tag"),
        (&["--set", "config.admin.listen=x"], "admin"),
    ] {
        let out =
            helm.call(&[&["template", "shop", &chart], &CLUSTER[..], wrong].concat(), "minimal-values.yaml")?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(!out.status.success() && text.contains(said), "{wrong:?}: {text}");
    }
    let out = Command::new(&helm.0).args(["template", "shop", &chart]).args(CLUSTER).output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && text.contains("mappings"), "without a config: {text}");
    Ok(())
}

#[test]
fn its_files_agree() -> Result<()> {
    let (about, values) = (yaml("Chart.yaml")?, yaml("values.yaml")?);
    ensure!(about["appVersion"] == env!("CARGO_PKG_VERSION"), "{about}");
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json"))?)?;
    let readme = fs::read_to_string(chart().join("README.md"))?;
    for name in values.as_object().context("no values")?.keys() {
        ensure!(schema["properties"][name].is_object(), "values.schema.json doesn't know {name}");
        ensure!(readme.contains(&format!("`{name}")), "README.md doesn't tell {name}");
    }
    let mut asked = 0;
    for entry in fs::read_dir(chart().join("templates"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        for rest in text.split(".Values.").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
            let pointer = format!("/{}", rest[..end].trim_end_matches('.').replace('.', "/"));
            ensure!(values.pointer(&pointer).is_some(), "{}: values.yaml has no {pointer}", path.display());
            asked += 1;
        }
    }
    ensure!(asked > 30, "only {asked} values asked for");
    Ok(())
}
