use super::*;

fn doctor(is_json: bool) -> Doctor {
    Doctor::new(
        "client",
        &DoctorArgs {
            doctor: true,
            json: is_json,
        },
    )
}

fn trouble() -> Trouble {
    Trouble::new("connect to 10.0.0.1:1", "connection\nrefused", "start it")
}

#[test]
fn exit_status_is_that_of_the_first_failed_step() {
    let mut doctor = doctor(true);
    doctor.ok("socket", Kind::WorkloadApi, "there");
    assert_eq!(doctor.exit_status(), 0);
    doctor.warning("identity", Kind::Identity, trouble());
    assert_eq!(doctor.exit_status(), 0);
    assert_eq!(doctor.summary(), "no step failed, 1 with a warning\n");
    doctor.failed("tcp", Kind::Connection, trouble());
    doctor.failed("token", Kind::Token, trouble());
    assert_eq!(doctor.exit_status(), 15);
    assert_eq!(
        doctor.summary(),
        "2 failed, 1 with a warning; the first is tcp (exit status 15)\n"
    );
}

#[test]
fn step_is_one_line_with_cause_and_remedy_below() {
    let mut doctor = doctor(true);
    doctor.set_route(Some("orders".to_owned()));
    doctor.failed("tcp", Kind::Connection, trouble());
    doctor.set_route(None);
    doctor.not_tried("tls", Kind::Tls, "a connection");
    let lines: String = doctor.steps.iter().map(Step::lines).collect();
    assert_eq!(
        lines,
        "failed     tcp           [orders] connect to 10.0.0.1:1\n\
         \x20                        cause: connection\\nrefused\n\
         \x20                        remedy: start it\n\
         not tried  tls           it needs a connection\n"
    );
}

#[test]
fn json_has_the_documented_members() {
    let mut doctor = doctor(true);
    doctor.ok("socket", Kind::WorkloadApi, "there");
    doctor.failed("tcp", Kind::Connection, trouble());
    let json = serde_json::to_value(doctor.report()).unwrap();
    let step = |step: &str, kind: &str, verdict: &str, text: &str, bad: Option<[&str; 2]>| {
        let [cause, remedy] = bad.map_or([None, None], |bad| bad.map(Some));
        serde_json::json!({
            "step": step, "kind": kind, "route": null, "verdict": verdict, "text": text,
            "cause": cause, "remedy": remedy,
        })
    };
    assert_eq!(
        json,
        serde_json::json!({
            "binary": "client",
            "version": env!("CARGO_PKG_VERSION"),
            "verdict": "failed",
            "first_failed": "tcp",
            "exit_status": 15,
            "steps": [
                step("socket", "workload_api", "ok", "there", None),
                step("tcp", "connection", "failed", "connect to 10.0.0.1:1", Some(["connection\\nrefused", "start it"])),
            ],
        })
    );
}
