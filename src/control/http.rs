//! From HTTP to requests, and from answers to HTTP.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request as HttpRequest};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{MethodFilter, get, on};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;

use super::access::{ADMIN_GROUP, Access};
use super::message::{ANSWER_BYTES_MAX, Message, REQUEST_BYTES_MAX, VERSION};
use super::routes::{
    BODY_LATE, BODY_TOO_LONG, BodyKind, DESCRIPTION, DESCRIPTION_PATH, ROUTES, Route,
};
use super::server::Handler;
use super::telling::{Lines, Telling, line_of};
use super::{Refusal, RefusalCode, Request};

/// An answer that is one value.
pub(super) const ONE_VALUE: &str = "application/json";

/// An answer in lines.
pub(super) const IN_LINES: &str = "application/x-ndjson";

/// Who asks, by the connection.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// What it may do.
    pub(super) access: Access,
    /// When its request has to be there in whole.
    pub(super) until: Instant,
    /// The connection.
    pub(super) line: Arc<UnixStream>,
}

impl Caller {
    /// Has it gone? The library sees that at once, unless more came than was asked for.
    fn is_gone(&self) -> bool {
        // Nothing is sent, but the kernel looks whether it could be.
        let mut line = &*self.line;
        line.write(&[]).is_err()
    }
}

/// How an answer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    OneValue,
    Lines,
}

impl Form {
    fn wanted(headers: &HeaderMap) -> Form {
        let mut accepted = headers.get_all(ACCEPT).iter();
        let names_lines = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.contains(IN_LINES));
        if accepted.any(names_lines) {
            Form::Lines
        } else {
            Form::OneValue
        }
    }
}

/// A "no" with its status.
struct No {
    status: u16,
    refusal: Refusal,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No {
            status: refusal.code.status(),
            refusal,
        }
    }
}

impl No {
    fn with_status(self, status: u16) -> No {
        No { status, ..self }
    }

    fn told(self, form: Form) -> Response {
        match form {
            Form::OneValue => {
                let mut text = serde_json::to_vec(&self.refusal).unwrap_or_default();
                text.push(b'\n');
                response(self.status, ONE_VALUE, text.into())
            }
            Form::Lines => {
                let line = line_of(&Message::Refused(self.refusal)).unwrap_or_default();
                response(self.status, IN_LINES, line.into())
            }
        }
    }
}

fn malformed(text: impl Into<String>) -> No {
    Refusal::new(RefusalCode::Malformed, text).into()
}

fn response(status: u16, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let status = StatusCode::from_u16(status);
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What answers the requests of all connections.
pub(super) fn router(handler: &Arc<dyn Handler>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = Arc::clone(handler);
        let answer = move |place: Result<RawPathParams, RawPathParamsRejection>,
                           request: HttpRequest| {
            let handler = Arc::clone(&handler);
            async move { answer(route, place, request, handler).await }
        };
        router = router.route(route.path, on(filter(route), answer));
    }
    router
        .route(
            DESCRIPTION_PATH,
            get(|| async { response(200, ONE_VALUE, DESCRIPTION.into()) }),
        )
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

fn filter(route: &Route) -> MethodFilter {
    let method = Method::from_str(route.method).ok();
    let filter = method.and_then(|method| MethodFilter::try_from(method).ok());
    filter.unwrap_or(MethodFilter::TRACE)
}

async fn unknown(headers: HeaderMap, method: Method, uri: Uri) -> Response {
    let form = Form::wanted(&headers);
    let path = uri.path();
    let first = path.split('/').nth(1).unwrap_or_default();
    let digits = first.strip_prefix('v');
    let version = digits.and_then(|digits| digits.parse::<u32>().ok());
    let refusal = match version {
        Some(other) if other != VERSION => {
            let text = format!(
                "the client speaks version {other} of the control API, this worker version {VERSION}; use \
                 the `doppelfs` that the worker was started from"
            );
            Refusal::new(RefusalCode::Version, text)
        }
        _ => {
            let text = format!(
                "unknown request {method} {path:?}; GET {DESCRIPTION_PATH} tells which there are"
            );
            Refusal::new(RefusalCode::Unknown, text)
        }
    };
    No::from(refusal).told(form)
}

async fn wrong_method(headers: HeaderMap, method: Method, uri: Uri) -> Response {
    let text = format!(
        "unknown request {method} {:?}; GET {DESCRIPTION_PATH} tells which methods it has",
        uri.path()
    );
    let no = No::from(Refusal::new(RefusalCode::Unknown, text));
    no.with_status(StatusCode::METHOD_NOT_ALLOWED.as_u16())
        .told(Form::wanted(&headers))
}

async fn answer(
    route: &'static Route,
    place: Result<RawPathParams, RawPathParamsRejection>,
    request: HttpRequest,
    handler: Arc<dyn Handler>,
) -> Response {
    let form = Form::wanted(request.headers());
    let caller = request.extensions().get::<Caller>().cloned();
    let asked = async {
        let no_caller = || Refusal::new(RefusalCode::Denied, "nobody knows who asks");
        let caller = caller.ok_or_else(no_caller)?;
        let request = read(route, place, request, &caller).await?;
        if request.needs() > caller.access {
            let text = format!("permission denied: this needs root or group {ADMIN_GROUP}");
            return Err(Refusal::new(RefusalCode::Denied, text).into());
        }
        Ok((request, caller))
    };
    let (request, caller) = match asked.await {
        Ok(asked) => asked,
        Err(no) => return No::told(no, form),
    };
    let goes_on = matches!(
        request,
        Request::QueueTail { follow: true, .. } | Request::QueueFind { follow: true, .. }
    );
    let telling = Telling::begin(caller.access, |items| handler.handle(request, items));
    match form {
        Form::OneValue if !goes_on => one_value(route, telling, &caller).await,
        Form::OneValue | Form::Lines => lines(telling).await,
    }
}

/// The whole request, or what is wrong with it.
async fn read(
    route: &Route,
    place: Result<RawPathParams, RawPathParamsRejection>,
    request: HttpRequest,
    caller: &Caller,
) -> Result<Request, No> {
    let place = place.map_err(|rejection| malformed(rejection.body_text()))?;
    let place = place.iter().next().map(|(_, value)| value);
    let (head, body) = request.into_parts();
    let body = match route.body {
        BodyKind::Empty => Default::default(),
        BodyKind::Fields | BodyKind::Field(_) => {
            let whole = Limited::new(body, REQUEST_BYTES_MAX).collect();
            match tokio::time::timeout_at(caller.until, whole).await {
                Ok(Ok(whole)) => whole.to_bytes(),
                Ok(Err(error)) if error.is::<LengthLimitError>() => {
                    let text = format!("a request's body has at most {REQUEST_BYTES_MAX} bytes");
                    return Err(malformed(text).with_status(BODY_TOO_LONG));
                }
                Ok(Err(error)) => return Err(malformed(format!("the body: {error}"))),
                Err(_) => {
                    return Err(malformed("the body does not come").with_status(BODY_LATE));
                }
            }
        }
    };
    let query = head.uri.query().unwrap_or_default();
    Ok(route.read(place, query, &body)?)
}

/// Waits for the first message, since the status can be chosen only before anything is told.
async fn lines(mut telling: Telling) -> Response {
    let first = telling.next().await;
    let status = match &first {
        Some(Message::Refused(refusal)) => refusal.code.status(),
        Some(Message::Alive | Message::Item(_) | Message::Done(_)) | None => 200,
    };
    let body = Body::new(Lines {
        first,
        rest: telling,
    });
    response(status, IN_LINES, body)
}

/// Waits for the end.
async fn one_value(route: &Route, mut telling: Telling, caller: &Caller) -> Response {
    let mut items = Vec::new();
    loop {
        match telling.next().await {
            Some(Message::Alive) if caller.is_gone() => break,
            Some(Message::Alive) => {}
            Some(Message::Item(item)) => {
                if !items.is_empty() {
                    items.push(b',');
                }
                items.extend(serde_json::to_vec(&item).unwrap_or_default());
                if items.len() > ANSWER_BYTES_MAX {
                    let text = format!(
                        "these are more than {ANSWER_BYTES_MAX} bytes; ask for fewer, or with `Accept: {IN_LINES}`"
                    );
                    return malformed(text).told(Form::OneValue);
                }
            }
            Some(Message::Done(reply)) => {
                let Ok(mut text) = serde_json::to_vec(&reply) else {
                    break;
                };
                if route.has_items && text.pop().is_some() {
                    text.extend(b",\"items\":[");
                    text.append(&mut items);
                    text.extend(b"]}");
                }
                text.push(b'\n');
                return response(200, ONE_VALUE, text.into());
            }
            Some(Message::Refused(refusal)) => return No::from(refusal).told(Form::OneValue),
            None => break,
        }
    }
    let refusal = Refusal::new(RefusalCode::Failed, "the answer cannot be written");
    No::from(refusal).told(Form::OneValue)
}
