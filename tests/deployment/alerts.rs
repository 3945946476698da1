use std::{fs, path::Path};

use harness::{installed::is_installed, results::ROOT};
use tokio::process::Command;

fn deploy(file: &str) -> std::path::PathBuf {
    Path::new(ROOT).join("deploy").join(file)
}

/// Returns the names of metrics in a text, without the endings of a histogram's series.
fn metrics(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter(|word| word.starts_with("spiffe_") || word.starts_with("process_"))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        .collect()
}

#[tokio::test]
async fn each_alert_is_raised_by_the_series_that_mean_harm_and_by_no_others() {
    if !is_installed("promtool", "--version").await {
        return;
    }
    let output = Command::new("promtool")
        .args(["test", "rules", "alerts_test.yml"])
        .current_dir(deploy("prometheus"))
        .output();
    let output = output.await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{text}");
    let rules = fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let tests = fs::read_to_string(deploy("prometheus/alerts_test.yml")).unwrap();
    for alert in rules
        .lines()
        .filter_map(|line| line.split_once("- alert: "))
    {
        for outcome in ["is raised", "is not raised"] {
            let name = format!("name: {} {outcome}", alert.1);
            assert!(tests.contains(&name), "no test: {name}");
        }
    }
}

#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let page = fs::read_to_string(deploy("metrics.md")).unwrap();
    let known = metrics(&page);
    for file in ["prometheus/alerts.yml", "grafana/dashboard.json"] {
        let text = fs::read_to_string(deploy(file)).unwrap();
        let used = metrics(&text);
        assert!(used.len() > 10, "{file}");
        for metric in used {
            assert!(known.contains(&metric), "{file}: {metric}");
        }
    }
}

#[test]
fn dashboard_has_a_query_in_each_panel_and_no_panel_on_another() {
    let text = fs::read_to_string(deploy("grafana/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut places = Vec::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        places.push((at("x"), at("y")));
        assert!(at("x") + at("w") <= 24);
        let targets = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(panel["type"] == "row" || targets > 0, "{}", panel["title"]);
    }
    let count = places.len();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), count);
}
