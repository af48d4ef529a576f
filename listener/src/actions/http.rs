//! Sending by HTTP, for the kinds of action that do.

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::deliver_action::{AttemptRequest, Transmission};
use crate::egress::http_client::HttpEndpoint;

impl HttpEndpoint {
    /// Returns the sending of an HTTP request.
    pub(super) fn transmit<'a>(
        &'a self,
        request: AttemptRequest<'a>,
        http: (Method, HeaderMap, Vec<u8>),
    ) -> Transmission<'a> {
        let (runtime, now, timeout) = (request.runtime, request.now, request.timeout);
        let by = (&runtime.egress, &runtime.http);
        Transmission::of(self.send(by, http, now, timeout))
    }
}
