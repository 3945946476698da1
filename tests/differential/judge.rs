use http::HeaderMap;

use crate::{
    caller::{CallerAnswer, Seen},
    plan::{Break, End, Plan},
    upstream::{Body, Received},
};

/// These fields cross unchanged.
const CROSSING: [&str; 5] = ["x-a", "set-cookie", "etag", "location", "content-type"];

/// A reset with this code says that the request was not processed (RFC 9113 §8.7).
const REFUSED_STREAM: u32 = 7;

/// Compares the results of a caller at the upstream itself and through the proxy. Checks the
/// requests that the upstream `received` through the proxy.
///
/// # Errors
/// Fails with a description of the difference.
pub(crate) fn judge(
    plan: &Plan,
    direct: Result<Seen, &'static str>,
    proxied: Result<Seen, &'static str>,
    received: &[Received],
) -> Result<(), String> {
    let proxied = proxied?;
    requests(plan, received).map_err(|wrong| match &proxied {
        Seen::Answer(proxied) => format!("{wrong}, the caller {}", short(proxied)),
        Seen::Nothing(error) => format!("{wrong}, the caller {error}"),
    })?;
    // A caller that gives up or leaves may see any part of the answer.
    if plan.request.is_given_up || plan.request.leaves_after.is_some() {
        return Ok(());
    }
    let direct = direct.map_err(|error| format!("direct: {error}"))?;
    expected(plan, &direct).map_err(|wrong| format!("direct: {wrong}"))?;
    match (&direct, &proxied) {
        (Seen::Answer(direct), Seen::Answer(proxied)) if direct.is_whole => same(direct, proxied),
        (Seen::Answer(direct), _) if direct.is_whole => Err(format!("no answer: {proxied:?}")),
        (_, Seen::Nothing(_)) => Ok(()),
        (_, Seen::Answer(proxied)) if is_own_failure(proxied) => Ok(()),
        (Seen::Nothing(_), Seen::Answer(proxied)) => begun(plan, proxied),
        (Seen::Answer(direct), Seen::Answer(proxied)) => {
            begun(plan, proxied)?;
            fields(&direct.headers, &proxied.headers)
        }
    }
}

/// Checks that the upstream itself follows the plan. Otherwise the test is wrong.
fn expected(plan: &Plan, direct: &Seen) -> Result<(), String> {
    let breaks = match plan.answer.end {
        End::Whole => false,
        End::Break(_) => plan.has_answer_body(),
        End::BreakBeforeHead(_) => true,
    };
    match direct {
        Seen::Answer(answer) if answer.is_whole && !breaks => {
            let is_it = answer.status == plan.answer.status && answer.body == plan.answer_body();
            is_it.then_some(()).ok_or_else(|| short(answer))
        }
        Seen::Answer(answer) if answer.is_whole => Err(format!("is whole: {}", short(answer))),
        _ if breaks => Ok(()),
        Seen::Answer(answer) => Err(format!("breaks: {}", short(answer))),
        Seen::Nothing(error) => Err(format!("nothing: {error}")),
    }
}

/// Checks that a whole answer crosses whole.
fn same(direct: &CallerAnswer, proxied: &CallerAnswer) -> Result<(), String> {
    if !proxied.is_whole || proxied.status != direct.status || proxied.body != direct.body {
        return Err(format!("{} became {}", short(direct), short(proxied)));
    }
    fields(&direct.headers, &proxied.headers)?;
    let [length, crossed] = [direct, proxied].map(|one| one.headers.get("content-length"));
    let is_length = match (length, crossed) {
        (None, None) | (None, Some(_)) => crossed
            .is_none_or(|crossed| crossed.as_bytes() == proxied.body.len().to_string().as_bytes()),
        // A 304 may lose its length (RFC 9110 §15.4.5).
        (Some(_), None) => proxied.status == 304,
        (Some(length), Some(crossed)) => length == crossed,
    };
    is_length
        .then_some(())
        .ok_or_else(|| format!("length {length:?} became {crossed:?}"))
}

fn fields(direct: &HeaderMap, proxied: &HeaderMap) -> Result<(), String> {
    for name in CROSSING {
        let [one, other] = [direct, proxied].map(|headers| {
            let values = headers.get_all(name).iter().cloned();
            values.collect::<Vec<_>>()
        });
        if one != other {
            return Err(format!("{name}: {one:?} became {other:?}"));
        }
    }
    Ok(())
}

fn is_own_failure(answer: &CallerAnswer) -> bool {
    matches!(answer.status, 502 | 504) && answer.is_whole
}

/// Checks that an answer which the upstream broke off is broken and begins as it did.
fn begun(plan: &Plan, proxied: &CallerAnswer) -> Result<(), String> {
    let is_beginning = plan.answer_body().starts_with(&proxied.body);
    if proxied.is_whole || !is_beginning || proxied.status != plan.answer.status {
        return Err(format!("a break became {}", short(proxied)));
    }
    Ok(())
}

/// Checks that each request reaches the upstream as it was sent, and no more often than it may.
fn requests(plan: &Plan, received: &[Received]) -> Result<(), String> {
    let sent = plan.request.body(plan.seed);
    for one in received {
        let is_right = match &one.body {
            Body::Whole(body) => !plan.request.is_given_up && *body == sent,
            Body::Begun | Body::Broken => true,
        };
        if !is_right || one.method != plan.request.method {
            let whole = matches!(one.body, Body::Whole(_));
            return Err(format!("the upstream got {}, whole: {whole}", one.method));
        }
    }
    let most = if may_be_repeated(plan) { 2 } else { 1 };
    let gives_up = plan.request.is_given_up || plan.request.leaves_after.is_some();
    let is_enough = !received.is_empty() || gives_up;
    if received.len() > most || !is_enough {
        return Err(format!("the upstream got {} requests", received.len()));
    }
    Ok(())
}

fn may_be_repeated(plan: &Plan) -> bool {
    let only_asks = matches!(plan.request.method, "GET" | "HEAD" | "OPTIONS");
    let is_given_back = matches!(
        plan.answer.end,
        End::BreakBeforeHead(Break::Reset(REFUSED_STREAM))
    );
    let is_untaken = plan.upstream == http::Version::HTTP_2 && is_given_back;
    is_untaken || only_asks && plan.request.parts.is_empty()
}

/// Describes an answer without its body.
fn short(answer: &CallerAnswer) -> String {
    let (status, length) = (answer.status, answer.body.len());
    let whole = if answer.is_whole { "whole" } else { "broken" };
    format!("{status} with {length} bytes, {whole}")
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::plan::{Download, Part, Reads, Upload};

    fn plan(end: End) -> Plan {
        let parts = vec![Part {
            length: 3,
            pause_ms: 0,
        }];
        Plan {
            seed: 1,
            caller: Version::HTTP_11,
            upstream: Version::HTTP_2,
            request: Upload {
                method: "POST",
                has_length: true,
                parts: parts.clone(),
                is_given_up: false,
                leaves_after: None,
                expects: false,
            },
            answer: Download {
                reads: Reads::All,
                has_hints: false,
                status: 200,
                fields: Vec::new(),
                has_length: false,
                parts,
                end,
                is_last: false,
            },
        }
    }

    fn answer(plan: &Plan, status: u16, length: usize, is_whole: bool) -> Seen {
        Seen::Answer(CallerAnswer {
            status,
            headers: HeaderMap::new(),
            body: plan.answer_body()[..length].to_vec(),
            is_whole,
        })
    }

    /// Returns results of a caller at the upstream and through the proxy, and whether they are
    /// allowed.
    fn cases(plan: &Plan) -> Vec<(Seen, Seen, bool)> {
        let nothing = Seen::Nothing(String::new());
        let of = |status, length, is_whole| answer(plan, status, length, is_whole);
        match plan.answer.end {
            End::Whole => vec![
                (of(200, 3, true), of(200, 3, true), true),
                (of(200, 3, true), of(200, 3, false), false),
                (of(200, 3, true), of(200, 2, true), false),
                (of(200, 3, true), of(502, 0, true), false),
                (of(200, 3, true), nothing, false),
            ],
            _ => vec![
                (of(200, 3, false), of(200, 3, false), true),
                (of(200, 3, false), of(200, 1, false), true),
                (of(200, 3, false), of(502, 0, true), true),
                (of(200, 3, false), of(200, 3, true), false),
                (of(200, 3, false), of(400, 0, true), false),
                (nothing, of(200, 3, true), false),
            ],
        }
    }

    #[test]
    fn forbidden_answers_are_found() {
        for plan in [plan(End::Whole), plan(End::Break(Break::Reset(0)))] {
            let received = Received {
                method: "POST".to_owned(),
                body: Body::Whole(plan.request.body(plan.seed).to_vec()),
            };
            for (direct, proxied, is_right) in cases(&plan) {
                let what = format!("{:?} {direct:?} {proxied:?}", plan.answer.end);
                let once = std::slice::from_ref(&received);
                let judged = judge(&plan, Ok(direct.clone()), Ok(proxied.clone()), once);
                assert_eq!(judged.is_ok(), is_right, "{what} {judged:?}");
                let twice = [received.clone(), received.clone()];
                judge(&plan, Ok(direct), Ok(proxied), &twice).expect_err(&what);
            }
        }
    }
}
