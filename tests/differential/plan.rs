use fastrand::Rng;
use http::Version;
use hyper::body::Bytes;

/// Describes what the caller of an exchange sends and what its upstream does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The exchange was drawn from this seed.
    pub(crate) seed: u64,
    /// The caller speaks this version to the proxy. It speaks the upstream's version to the upstream.
    pub(crate) caller: Version,
    pub(crate) upstream: Version,
    pub(crate) request: Upload,
    pub(crate) answer: Download,
}

/// Describes a request and its body.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) method: &'static str,
    pub(crate) has_length: bool,
    pub(crate) parts: Vec<Part>,
    /// The caller gives up after the parts, although its body is not complete.
    pub(crate) is_given_up: bool,
    /// The caller closes its connection when it has this many bytes of the answer.
    pub(crate) leaves_after: Option<usize>,
    /// The caller asks for `100 (Continue)` and does not wait for it.
    pub(crate) expects: bool,
}

/// Describes a part of a body. Its sender pauses after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) length: usize,
    pub(crate) pause_ms: u64,
}

/// Describes what an upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    pub(crate) reads: Reads,
    /// `103 (Early Hints)` comes before the answer (RFC 8297).
    pub(crate) has_hints: bool,
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) has_length: bool,
    pub(crate) parts: Vec<Part>,
    pub(crate) end: End,
    /// The connection accepts no more requests after a whole answer.
    pub(crate) is_last: bool,
}

/// The part of a request's body that the upstream reads before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    All,
    /// The upstream reads this many bytes before and the rest after its answer.
    Early(usize),
    /// The upstream reads nothing before its answer, and over HTTP/2 nothing after it.
    Never,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// The answer breaks off after its parts, although its body is not complete.
    Break(Break),
    /// The answer breaks off before its head.
    BreakBeforeHead(Break),
}

/// The way in which an answer breaks off. Over HTTP/1.1 each break ends the connection. GOAWAY is
/// then close_notify, and the other ways send none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The upstream sends RST_STREAM with this code.
    Reset(u32),
    /// The upstream sends GOAWAY with this code and closes the connection.
    GoAway(u32),
    /// The upstream closes the connection.
    Cut,
}

/// The number of bytes that a body lacks when it breaks off.
pub(crate) const MISSING: usize = 17;

impl Plan {
    /// Draws an exchange from its seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let [caller, upstream] = [(); 2].map(|()| version(&mut rng));
        let request = Upload::of(&mut rng);
        let answer = Download::of(&mut rng, &request);
        Self {
            seed,
            caller,
            upstream,
            request,
            answer,
        }
    }

    /// Turns breaks that would end other exchanges on the connection into resets.
    pub(crate) fn next_to_others(mut self) -> Self {
        let alone = |how| match how {
            Break::Reset(code) | Break::GoAway(code) => Break::Reset(code),
            Break::Cut => Break::Reset(2),
        };
        if self.upstream == Version::HTTP_2 {
            self.answer.end = match self.answer.end {
                End::Whole => End::Whole,
                End::Break(how) => End::Break(alone(how)),
                End::BreakBeforeHead(how) => End::BreakBeforeHead(alone(how)),
            };
        }
        self
    }

    /// Returns the bytes of the answer's body that the upstream sends.
    pub(crate) fn answer_body(&self) -> Bytes {
        if self.has_answer_body() {
            bytes(self.seed + 1, length(&self.answer.parts))
        } else {
            Bytes::new()
        }
    }

    /// Returns whether the answer may have a body (RFC 9110 §6.4.1).
    pub(crate) fn has_answer_body(&self) -> bool {
        self.request.method != "HEAD" && ![204, 304].contains(&self.answer.status)
    }

    /// Returns the length in the answer's head. A 204 has none (RFC 9110 §8.6).
    pub(crate) fn answer_length(&self) -> Option<usize> {
        let missing = if self.answer.end == End::Whole {
            0
        } else {
            MISSING
        };
        let has_length = self.answer.has_length && self.answer.status != 204;
        has_length.then(|| length(&self.answer.parts) + missing)
    }
}

impl Upload {
    fn of(rng: &mut Rng) -> Self {
        let methods = [
            "GET", "POST", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS",
        ];
        let method = methods[rng.usize(..methods.len())];
        let may_be_empty = !matches!(method, "POST" | "PUT" | "PATCH");
        let is_empty = rng.u8(..100) < if may_be_empty { 80 } else { 5 };
        let parts = if is_empty { Vec::new() } else { parts(rng) };
        Self {
            method,
            has_length: is_empty || rng.bool(),
            is_given_up: !parts.is_empty() && rng.u8(..100) < 15,
            leaves_after: (rng.u8(..100) < 7).then(|| rng.usize(..100 * 1024)),
            expects: !parts.is_empty() && rng.u8(..100) < 10,
            parts,
        }
    }

    /// Returns whether the request has no body.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.has_length
    }

    /// Returns the bytes of the body that the caller sends.
    pub(crate) fn body(&self, seed: u64) -> Bytes {
        bytes(seed, length(&self.parts))
    }

    /// Returns the length in the request's head.
    pub(crate) fn length(&self) -> usize {
        length(&self.parts) + if self.is_given_up { MISSING } else { 0 }
    }
}

impl Download {
    fn of(rng: &mut Rng, request: &Upload) -> Self {
        let statuses = [200, 200, 200, 200, 201, 204, 302, 304, 404, 413, 500, 503];
        let reads = match rng.u8(..10) {
            0 | 1 => Reads::Early(rng.usize(..=length(&request.parts))),
            2 => Reads::Never,
            _ => Reads::All,
        };
        let end = end(rng);
        let parts = match end {
            End::Break(_) => parts(rng),
            _ if rng.u8(..5) == 0 => Vec::new(),
            _ => parts(rng),
        };
        Self {
            reads,
            has_hints: rng.u8(..10) == 0,
            status: statuses[rng.usize(..statuses.len())],
            fields: fields(rng),
            has_length: rng.bool(),
            parts,
            end,
            is_last: end == End::Whole && rng.u8(..10) == 0,
        }
    }
}

fn version(rng: &mut Rng) -> Version {
    if rng.bool() {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    }
}

fn end(rng: &mut Rng) -> End {
    let codes = [0, 0, 0, 1, 2, 5, 7, 8, 8, 11, 0xff];
    let code = codes[rng.usize(..codes.len())];
    let how = match rng.u8(..4) {
        0 | 1 => Break::Reset(code),
        2 => Break::GoAway(code),
        _ => Break::Cut,
    };
    match rng.u8(..10) {
        0 => End::BreakBeforeHead(how),
        1..=3 => End::Break(how),
        _ => End::Whole,
    }
}

/// Draws a body of up to 200 KiB. Lengths at which the proxy behaves differently are drawn more
/// often.
fn parts(rng: &mut Rng) -> Vec<Part> {
    let total = match rng.u8(..6) {
        0 => rng.usize(..10),
        1 => 8 * 1024 - 2 + rng.usize(..5),
        2 => 64 * 1024 - 2 + rng.usize(..5),
        3 => rng.usize(..8 * 1024),
        _ => rng.usize(..=200 * 1024),
    };
    let (mut parts, mut left) = (Vec::new(), total);
    let most = 1 + rng.usize(..5);
    while left > 0 {
        let is_last = parts.len() + 1 == most;
        let length = if is_last { left } else { 1 + rng.usize(..left) };
        let pause_ms = if rng.u8(..4) == 0 { rng.u64(..5) } else { 0 };
        parts.push(Part { length, pause_ms });
        left -= length;
    }
    parts
}

fn fields(rng: &mut Rng) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    for name in [
        "x-a",
        "set-cookie",
        "set-cookie",
        "etag",
        "location",
        "content-type",
    ] {
        if rng.u8(..3) == 0 {
            fields.push((name, format!("v{}", rng.u32(..))));
        }
    }
    fields
}

fn length(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.length).sum()
}

/// Returns bytes that differ within a body and from seed to seed.
fn bytes(seed: u64, length: usize) -> Bytes {
    let mut rng = Rng::with_seed(!seed);
    (0..length).map(|_| rng.u8(..)).collect()
}
