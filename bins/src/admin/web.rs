//! What a browser and Prometheus get at `metrics_addr`: a page, its figures, metrics, and whether the program is well.
//!
//! Nobody proves who he is here. So it is for the machine itself unless the user says otherwise, it changes nothing, and
//! pages of other sites, which a browser on that machine may have open, get nothing: a request must name this host by an
//! address or by the machine's own name (else a foreign name could be made to lead here), and must not come from elsewhere.

use super::{Program, fresh, metrics};
use crate::address::{AddressError, socket_addr};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections at once. More wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// How long a request may take to come, and a connection may be quiet.
const HEADER: Duration = Duration::from_secs(5);
/// How long a connection may live in all: whoever does not read his answer is put out by then.
const CONNECTION: Duration = Duration::from_secs(30);
/// The longest request head, in bytes.
const HEAD: usize = 16 * 1024;
/// The pause when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// The page may load nothing, but ask for its figures where it came from.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const PAGE: &str = include_str!("page.html");

/// What `metrics_addr` says: a port alone is one of this machine itself.
///
/// # Errors
/// What to write instead.
pub fn address(text: &str) -> Result<SocketAddr, AddressError> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    socket_addr(text)?.ok_or_else(|| {
        AddressError::new(
            "is no port and no IP address with a port; write a port, such as \"9464\", for this machine alone, or \
             \"192.0.2.1:9464\"",
        )
    })
}

/// Serves as long as the process lives.
pub(super) async fn serve(listener: TcpListener, program: Arc<Program>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let program = Arc::clone(&program);
        tokio::spawn(async move {
            let _place = place;
            let _too_long = timeout(CONNECTION, attend(stream, program)).await;
        });
    }
}

async fn attend(stream: TcpStream, program: Arc<Program>) {
    let service = service_fn(move |request| {
        let program = Arc::clone(&program);
        async move { Ok::<_, Infallible>(answer(&request, &program).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEAD);
    // A connection that fails is its peer's business.
    let _failed = server.serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: &Request<Incoming>, program: &Program) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    if let Err(why) = is_ours(request.headers(), &program.host_name) {
        return plain(StatusCode::FORBIDDEN, why);
    }
    match request.uri().path() {
        "/" => {
            let mut answer = body(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            answer
        }
        "/status.json" => match fresh(program).await {
            Ok(status) => {
                let text = serde_json::to_vec(&*status).unwrap_or_default();
                body(StatusCode::OK, "application/json", text)
            }
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        "/metrics" => match fresh(program).await {
            Ok(status) => body(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(status)),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        "/healthz" => match fresh(program).await {
            Ok(_) => plain(StatusCode::OK, "ok\n"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        "/readyz" => match fresh(program).await.and_then(|status| status.ailment().map_or(Ok(()), Err)) {
            Ok(()) => plain(StatusCode::OK, "ok\n"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /, /metrics, /status.json, /healthz and /readyz\n"),
    }
}

fn plain(code: StatusCode, text: impl Into<Bytes>) -> Answer {
    body(code, "text/plain; charset=utf-8", text)
}

fn body(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(content.into()));
    *answer.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Whether a request is meant for this host, and comes from no other site's page.
fn is_ours(headers: &HeaderMap, host_name: &str) -> Result<(), &'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if !names_this_host(host, host_name) {
        return Err(
            "ask by an IP address, `localhost` or this machine's host name: another name could be made to lead here\n",
        );
    }
    let foreign = text(header::ORIGIN).is_some_and(|origin| origin != format!("http://{host}"));
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let foreign = foreign || site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if foreign { Err("pages of other sites get nothing here\n") } else { Ok(()) }
}

/// Whether `host`, with or without a port, is an address, or a name of this machine.
fn names_this_host(host: &str, own: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let in_brackets = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if in_brackets.is_some_and(|name| name.parse::<IpAddr>().is_ok()) || name.parse::<IpAddr>().is_ok() {
        return true;
    }
    name.eq_ignore_ascii_case("localhost") || !own.is_empty() && name.eq_ignore_ascii_case(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine_itself() {
        assert_eq!(address("9464"), Ok("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(address("[::]:9464"), Ok("[::]:9464".parse().unwrap()));
        for wrong in ["", "65536", "localhost:9464", "192.0.2.1", "x"] {
            assert!(address(wrong).unwrap_err().to_string().contains("write a port"), "{wrong}");
        }
    }

    #[test]
    fn a_host_is_named_by_an_address_or_by_its_own_name() {
        for host in
            ["127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "[::1]", "localhost:9464", "LOCALHOST", "box", "Box:1"]
        {
            assert!(names_this_host(host, "box"), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:9464", "127.0.0.1.evil.example", "box.evil.example", "localhost.", ":1"]
        {
            assert!(!names_this_host(host, "box"), "{host}");
        }
        assert!(!names_this_host("", ""));
    }

    #[test]
    fn a_page_of_another_site_gets_nothing() {
        let ask = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for &(name, value) in fields {
                headers.insert(name, HeaderValue::from_static(value));
            }
            is_ours(&headers, "box").is_ok()
        };
        let host = ("host", "127.0.0.1:9464");
        assert!(ask(&[host]));
        assert!(ask(&[host, ("origin", "http://127.0.0.1:9464"), ("sec-fetch-site", "same-origin")]));
        assert!(ask(&[host, ("sec-fetch-site", "none")]));
        assert!(!ask(&[]));
        assert!(!ask(&[("host", "rebound.example")]));
        for foreign in ["https://evil.example", "http://127.0.0.1:8080", "null"] {
            assert!(!ask(&[host, ("origin", foreign)]), "{foreign}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!ask(&[host, ("sec-fetch-site", site)]), "{site}");
        }
    }
}
