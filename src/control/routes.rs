//! Which request is asked by which method and path: one table, used by both ends.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::{Refusal, RefusalCode, Request};

/// Where the description of the API is asked for.
pub const DESCRIPTION_PATH: &str = "/v1/openapi.json";

/// The description of the API (OpenAPI 3.1).
pub const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

/// What a parameter of a query holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// `true` or `false`.
    Flag,
    /// A whole number, not negative.
    Number,
}

/// A parameter of a query. None has to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// The field of the request.
    pub name: &'static str,
    /// What it holds.
    pub kind: ParameterKind,
    /// What is taken where it is not given; none: the field is left out.
    pub default: Option<&'static str>,
}

/// What stands in the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// It has none; one that comes is not looked at.
    Empty,
    /// An object with the request's fields.
    Fields,
    /// One field of the request, by its name.
    Field(&'static str),
}

/// Where a request stands in the API.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The request's name; `operationId` in the description.
    pub name: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The path; what stands in braces is a field of the request.
    pub path: &'static str,
    /// What its query may hold.
    pub query: &'static [Parameter],
    /// What its body holds.
    pub body: BodyKind,
    /// Its answer has items before the end.
    pub has_items: bool,
}

const CAUGHT_UP: Parameter = Parameter::new("caught_up", ParameterKind::Flag, Some("true"));
const TIMEOUT_MS: Parameter = Parameter::new("timeout_ms", ParameterKind::Number, None);
const COUNT: Parameter = Parameter::new("count", ParameterKind::Number, Some("10"));
const FOLLOW: Parameter = Parameter::new("follow", ParameterKind::Flag, Some("false"));

/// Every request. One more is one more row, and its place in the description (a test looks).
pub const ROUTES: &[Route] = &[
    Route::get("status", "/v1/status", &[]),
    Route::get("wait", "/v1/wait", &[CAUGHT_UP, TIMEOUT_MS]),
    Route::get("queue-tail", "/v1/operations", &[COUNT, FOLLOW]).with_items(),
    Route::act(
        "POST",
        "queue-find",
        "/v1/operations/find",
        BodyKind::Fields,
    )
    .with_items(),
    Route::get("queue-show", "/v1/queue", &[]),
    Route::get("stats", "/v1/stats", &[]),
    Route::act("POST", "mirror-start", "/v1/mirror", BodyKind::Fields),
    Route::act(
        "POST",
        "prepare-umount",
        "/v1/umount/prepare",
        BodyKind::Empty,
    ),
    Route::act(
        "POST",
        "abandon-umount",
        "/v1/umount/abandon",
        BodyKind::Empty,
    ),
    Route::act("POST", "stop", "/v1/stop", BodyKind::Empty),
    Route::act("POST", "invite", "/v1/invitations", BodyKind::Fields),
    Route::get("peers", "/v1/peers", &[]),
    Route::act("DELETE", "revoke-peer", "/v1/peers/{name}", BodyKind::Empty),
    Route::act(
        "PATCH",
        "set-peer",
        "/v1/peers/{name}",
        BodyKind::Field("terms"),
    ),
    Route::act("POST", "rotate-key", "/v1/key", BodyKind::Fields),
    Route::act("POST", "hold", "/v1/hold", BodyKind::Fields),
    Route::act("POST", "mark", "/v1/marks", BodyKind::Fields),
    Route::act("POST", "pause", "/v1/pause", BodyKind::Fields),
    Route::act("POST", "resume", "/v1/resume", BodyKind::Empty),
    Route::act("POST", "disconnect", "/v1/disconnect", BodyKind::Fields),
    Route::act("POST", "connect", "/v1/connect", BodyKind::Empty),
    Route::act(
        "POST",
        "stop-replication",
        "/v1/replication/stop",
        BodyKind::Empty,
    ),
    Route::act(
        "POST",
        "start-replication",
        "/v1/replication/start",
        BodyKind::Empty,
    ),
    Route::act(
        "POST",
        "pause-replicas",
        "/v1/replicas/pause",
        BodyKind::Fields,
    ),
    Route::act(
        "POST",
        "resume-replicas",
        "/v1/replicas/resume",
        BodyKind::Fields,
    ),
];

impl Parameter {
    const fn new(
        name: &'static str,
        kind: ParameterKind,
        default: Option<&'static str>,
    ) -> Parameter {
        Parameter {
            name,
            kind,
            default,
        }
    }

    fn value(&self, text: &str) -> Result<Value, Refusal> {
        let read = match self.kind {
            ParameterKind::Flag => text.parse().map(Value::Bool).ok(),
            ParameterKind::Number => text.parse::<u64>().map(Value::from).ok(),
        };
        read.ok_or_else(|| {
            let wanted = match self.kind {
                ParameterKind::Flag => "true or false",
                ParameterKind::Number => "a whole number",
            };
            malformed(format!(
                "parameter {}={text:?}: it takes {wanted}",
                self.name
            ))
        })
    }
}

fn malformed(text: String) -> Refusal {
    Refusal::new(RefusalCode::Malformed, text)
}

/// A request, as HTTP carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// By which route.
    pub route: &'static Route,
    /// What stands for the braces of the path.
    pub place: Option<String>,
    /// The query, without `?`.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// Path and query.
    pub fn target(&self) -> String {
        let mut target = self.route.path.to_owned();
        if let (Some(field), Some(place)) = (self.route.place(), &self.place) {
            let written = utf8_percent_encode(place, NON_ALPHANUMERIC).to_string();
            target = target.replace(&format!("{{{field}}}"), &written);
        }
        if !self.query.is_empty() {
            target = target + "?" + &self.query;
        }
        target
    }
}

impl Route {
    const fn get(name: &'static str, path: &'static str, query: &'static [Parameter]) -> Route {
        Route {
            name,
            method: "GET",
            path,
            query,
            body: BodyKind::Empty,
            has_items: false,
        }
    }

    const fn act(
        method: &'static str,
        name: &'static str,
        path: &'static str,
        body: BodyKind,
    ) -> Route {
        Route {
            name,
            method,
            path,
            query: &[],
            body,
            has_items: false,
        }
    }

    const fn with_items(self) -> Route {
        Route {
            has_items: true,
            ..self
        }
    }

    /// The field that is a part of the path.
    pub fn place(&self) -> Option<&'static str> {
        let (_, rest) = self.path.split_once('{')?;
        rest.split_once('}').map(|(field, _)| field)
    }

    /// Every status that it may be answered with. Beside them stand what HTTP itself answers: 405 for another
    /// method, 431 for a head that is too long.
    pub fn statuses(&self) -> Vec<u16> {
        let mut statuses: Vec<u16> = RefusalCode::ALL.map(RefusalCode::status).to_vec();
        statuses.push(200);
        if self.body != BodyKind::Empty {
            statuses.extend([BODY_LATE, BODY_TOO_LONG]);
        }
        statuses.sort_unstable();
        statuses.dedup();
        statuses
    }

    /// Reads a request that came by this route. Parameters and fields that it does not know, which a later
    /// version may have, are passed over.
    ///
    /// # Errors
    /// A [`Refusal`] that says which part is wrong.
    pub fn read(&self, place: Option<&str>, query: &str, body: &[u8]) -> Result<Request, Refusal> {
        let mut fields = match self.body {
            BodyKind::Empty => Map::new(),
            BodyKind::Fields => object_of(body)?,
            BodyKind::Field(name) => {
                let content = Value::Object(object_of(body)?);
                Map::from_iter([(name.to_owned(), content)])
            }
        };
        let mut given = BTreeMap::new();
        for (name, text) in form_urlencoded::parse(query.as_bytes()) {
            let Some(parameter) = self.query.iter().find(|known| known.name == name) else {
                continue;
            };
            if given.insert(parameter.name, text).is_some() {
                return Err(malformed(format!("parameter {name} is given twice")));
            }
        }
        for parameter in self.query {
            let text = given.get(parameter.name).map(|text| text.as_ref());
            if let Some(text) = text.or(parameter.default) {
                fields.insert(parameter.name.to_owned(), parameter.value(text)?);
            }
        }
        if let (Some(field), Some(place)) = (self.place(), place) {
            fields.insert(field.to_owned(), Value::from(place));
        }
        fields.insert(TAG.to_owned(), Value::from(self.name));
        serde_json::from_value(Value::Object(fields))
            .map_err(|e| malformed(format!("request {:?}: {e}", self.name)))
    }
}

/// What says which request a value is.
const TAG: &str = "do";

/// Status for a body that does not come in time.
pub(super) const BODY_LATE: u16 = 408;

/// Status for a body that is longer than any request.
pub(super) const BODY_TOO_LONG: u16 = 413;

/// The fields of a body; nothing at all is none.
fn object_of(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(malformed("the body is no object of JSON".to_owned())),
        Err(e) => Err(malformed(format!("the body is no JSON: {e}"))),
    }
}

/// How `request` is asked.
///
/// # Errors
/// A [`Refusal`]: there is no such question.
pub fn encode_request(request: &Request) -> Result<Asked, Refusal> {
    let value = serde_json::to_value(request).map_err(|e| malformed(e.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(malformed("a request is an object".to_owned()));
    };
    let name = fields.remove(TAG).unwrap_or_default();
    let route = ROUTES.iter().find(|route| name == route.name);
    let route = route.ok_or_else(|| {
        let text = format!("the control API has no route for request {name}");
        Refusal::new(RefusalCode::Unknown, text)
    })?;
    let place = route.place().and_then(|field| fields.remove(field));
    let place = place.and_then(|place| place.as_str().map(str::to_owned));
    if place.as_deref() == Some("") {
        return Err(malformed(format!("request {name}: it needs a name")));
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    for parameter in route.query {
        match fields.remove(parameter.name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                query.append_pair(parameter.name, &value.to_string());
            }
        }
    }
    let body = match route.body {
        BodyKind::Empty => None,
        BodyKind::Fields => Some(Value::Object(fields)),
        BodyKind::Field(name) => fields.remove(name),
    };
    Ok(Asked {
        route,
        place,
        query: query.finish(),
        body: body.map_or_else(Vec::new, |body| body.to_string().into_bytes()),
    })
}
