//! The reasons of refusals.
//!
//! A request that is not served has one reason. Its code is the same word in the log (`reason=audience`), in
//! the metrics and in `deploy/refusals.md`. The crates share one list, so that no two use one word
//! for two things. One function of each error type returns the reason of the error.

crate::labels! {
    /// The reason why a request was not served. Its text is the code.
    pub enum Reason {
        /// The request has no bearer token.
        NoToken = "no_token",
        /// The `Authorization` header is malformed.
        Malformed = "malformed",
        /// The `Authorization` header is longer than 8 KiB.
        TooLong = "too_long",
        /// The token is not a JWT, or a field of it has the wrong type.
        Unparsable = "unparsable",
        /// The `typ` of the token is not that of a JWT-SVID.
        TokenType = "token_type",
        /// No JWT-SVID has the `alg` of the token.
        Algorithm = "algorithm",
        /// The token has no `kid`.
        NoKeyId = "no_key_id",
        /// The `sub` of the token is not a SPIFFE ID.
        Subject = "subject",
        /// There is no bundle for the subject's trust domain.
        UnknownTrustDomain = "unknown_trust_domain",
        /// The bundle of the subject's trust domain does not have the token's key.
        UnknownKey = "unknown_key",
        /// The key cannot verify the token.
        UnusableKey = "unusable_key",
        /// The key did not make the token's signature.
        Signature = "signature",
        /// The token has expired.
        Expired = "expired",
        /// The token is not valid yet.
        NotYetValid = "not_yet_valid",
        /// The token lives for longer than the policy accepts.
        Lifetime = "lifetime",
        /// The token is for another audience.
        Audience = "audience",
        /// The caller is verified and not allowed.
        NotAllowed = "not_allowed",
        /// The server has no bundles to verify tokens with.
        NoBundles = "no_bundles",
        /// Too many tokens wait to be verified.
        Busy = "busy",
        /// The caller's credential expired before the answer began or ended.
        CredentialExpired = "credential_expired",
        /// A gateway's check has no request that can be read.
        MalformedCheck = "malformed_check",
        /// A call of a gateway is not a check.
        NotACheck = "not_a_check",
        /// The request could mean one thing here and another upstream.
        MalformedRequest = "malformed_request",
        /// The request's body has a coding that is not implemented.
        TransferCoding = "transfer_coding",
        /// The request has an expectation that cannot be met.
        Expectation = "expectation",
        /// The request's method is never forwarded.
        Method = "method",
        /// The request is forwarded in a loop.
        Loop = "loop",
        /// The request's path is not forwarded.
        NotFound = "not_found",
        /// The request is for this hop, which answers it.
        OwnHop = "own_hop",
        /// No upstream connection could be opened.
        UpstreamConnect = "upstream_connect",
        /// An upstream connection was not open in time.
        UpstreamConnectTimeout = "upstream_connect_timeout",
        /// The upstream has another SPIFFE ID.
        UpstreamIdentity = "upstream_identity",
        /// There are no bundles to verify the upstream with.
        UpstreamNoBundles = "upstream_no_bundles",
        /// There is no bundle for the upstream's trust domain.
        UpstreamTrustDomain = "upstream_trust_domain",
        /// The upstream did not answer in time.
        UpstreamTimeout = "upstream_timeout",
        /// No upstream connection had room in time.
        UpstreamFull = "upstream_full",
        /// The upstream cancelled the request before its answer.
        UpstreamCancelled = "upstream_cancelled",
        /// The upstream broke off, or its answer is not valid.
        UpstreamFailed = "upstream_failed",
        /// The request's body broke off.
        RequestBody = "request_body",
        /// The request's body is longer than it may be.
        BodyTooLarge = "body_too_large",
        /// The request's body stood still for too long.
        BodyTimeout = "body_timeout",
        /// The request's target is too long.
        TargetTooLong = "target_too_long",
        /// The request's head is too large, or has too many fields.
        HeadTooLarge = "head_too_large",
        /// More requests are in flight than may be.
        Overloaded = "overloaded",
        /// The request was ended to make room for one of another source.
        Evicted = "evicted",
        /// A fault of this program ended the request.
        Internal = "internal",
        /// No route is for the request's host.
        NoRoute = "no_route",
        /// The application sent an `Authorization` of its own.
        OwnAuthorization = "own_authorization",
        /// There is no JWT-SVID to send with the request.
        NoJwtSvid = "no_jwt_svid",
    }
}
