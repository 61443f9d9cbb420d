//! HTTP on a leash: sends what plugins fetch, to hosts the policy allows, within limits of size and time.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, header};
use tokio::time::{Instant, Sleep, timeout_at};
use wasmtime_wasi_http::{Error as WasiError, RequestOptions, WasiBody, WasiHttpHooks};

use super::address::{Names, NotPublic};
use super::grants::Grants;
use super::limits::PluginLimits;
use super::policy::{Denial, EgressPolicy, Reach};

/// What one plugin host shares for fetching: the policy and the kept-alive connections.
pub(super) struct Egress {
    policy: EgressPolicy,
    /// `None` where the machine has no certificate authorities; such a host serves, but fetches nothing.
    clients: Option<Clients>,
}

struct Clients {
    /// For hosts the operator named: whatever address they resolve to.
    named: Client,
    /// For hosts that a wildcard matches: resolves to public addresses only, so a connection is pinned to one of them.
    public: Client,
}

/// Why the host ended a fetch. Reported in place of the error the plugin makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FetchFault {
    Denied { place: Place, denial: Denial },
    TooLarge { place: Place },
    RequestTooLarge { place: Place },
    TooSlow { place: Place },
    TooMany,
}

/// Where a fetch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A name, or an address as a URL has it.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_name: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Egress {
    pub(super) fn new(policy: EgressPolicy, limits: &PluginLimits) -> Egress {
        let clients = Clients::new(&policy.names, limits);
        if let Err(error) = &clients {
            tracing::warn!(cause = with_causes(error), "plugins cannot fetch anything; ca-certificates may be missing");
        }
        Egress { policy, clients: clients.ok() }
    }
}

impl Clients {
    fn new(names: &Names, limits: &PluginLimits) -> reqwest::Result<Clients> {
        let client = |public_only| {
            Client::builder()
                .no_proxy()
                // A plugin follows redirects itself, so each hop comes by the policy.
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("model-nexus/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(limits.fetch_time)
                .pool_max_idle_per_host(16)
                .dns_resolver(Resolver { names: names.clone(), public_only })
                .build()
        };
        Ok(Clients { named: client(false)?, public: client(true)? })
    }
}

/// Resolves names for a client. What it checks is what the client connects to: it is asked once for each connection.
struct Resolver {
    names: Names,
    public_only: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, public_only) = (self.names.clone(), self.public_only);
        Box::pin(async move {
            let addresses = names.addresses(name.as_str()).await?;
            let addresses = if public_only { names.public(addresses)? } else { addresses };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The leash of one instance.
pub(super) struct EgressHooks {
    leash: Leash,
    fetches_left: usize,
}

/// What one fetch needs, cloned into its task.
#[derive(Clone)]
struct Leash {
    egress: Arc<Egress>,
    grants: Arc<Grants>,
    /// Time that fetches took, to the last byte that the plugin read.
    spent: Arc<Mutex<Duration>>,
    /// The first fault of the stage that runs.
    fault: Arc<Mutex<Option<FetchFault>>>,
    bytes: usize,
    time: Duration,
}

impl EgressHooks {
    pub(super) fn new(egress: Arc<Egress>, grants: Arc<Grants>, limits: &PluginLimits) -> EgressHooks {
        let leash = Leash {
            egress,
            grants,
            spent: Arc::default(),
            fault: Arc::default(),
            bytes: limits.fetch_bytes,
            time: limits.fetch_time,
        };
        EgressHooks { leash, fetches_left: limits.fetches }
    }

    /// Time that fetches took so far; those at the same time each count.
    pub(super) fn time_spent(&self) -> Duration {
        *self.leash.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first fault since the last call.
    pub(super) fn take_fault(&self) -> Option<FetchFault> {
        self.leash.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), WasiError>> + Send>), WasiError>;

impl WasiHttpHooks for EgressHooks {
    // The client writes this header itself, from the URL that was checked.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), WasiError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let leash = self.leash.clone();
        let in_budget = self.fetches_left > 0;
        self.fetches_left = self.fetches_left.saturating_sub(1);
        Box::new(async move {
            if !in_budget {
                leash.record(FetchFault::TooMany);
                return Err(WasiError::HttpRequestDenied);
            }
            let response = leash.fetch(request, options).await?;
            let done: Box<dyn Future<Output = Result<(), WasiError>> + Send> = Box::new(async { Ok(()) });
            Ok((response, done))
        })
    }
}

impl Leash {
    fn record(&self, fault: FetchFault) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    async fn fetch(
        self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<http::Response<WasiBody>, WasiError> {
        let (head, body) = request.into_parts();
        // Judged in the form the client connects by: `http://127.1/` is 127.0.0.1 in both.
        let url = Url::parse(&head.uri.to_string()).map_err(|_| WasiError::HttpRequestUriInvalid)?;
        let place = Place::of(&url).ok_or(WasiError::HttpRequestUriInvalid)?;
        let client = self.client(&url, &place)?;
        let fetch_time = FetchTime { started: Instant::now(), spent: Arc::clone(&self.spent) };
        let deadline = fetch_time.started + self.time;
        let wished = options.and_then(|options| options.connect_timeout?.checked_add(options.first_byte_timeout?));
        let answer_by =
            wished.and_then(|wish| Instant::now().checked_add(wish)).map_or(deadline, |wish| wish.min(deadline));
        let answer = timeout_at(answer_by, async {
            let body = self.collect(body, &place).await?;
            let mut request = reqwest::Request::new(head.method, url);
            *request.headers_mut() = head.headers;
            request.headers_mut().remove(header::CONTENT_LENGTH);
            if !body.is_empty() {
                *request.body_mut() = Some(body.into());
            }
            client.execute(request).await.map_err(|error| self.explain(&error, &place))
        });
        match answer.await {
            Ok(answer) => self.hold(answer?.into(), place.clone(), deadline, fetch_time),
            Err(_) => {
                if answer_by == deadline {
                    self.record(FetchFault::TooSlow { place: place.clone() });
                }
                Err(WasiError::HttpResponseTimeout)
            }
        }
    }

    /// The client that reaches no further than the policy allows for this URL.
    fn client(&self, url: &Url, place: &Place) -> Result<&Client, WasiError> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WasiError::HttpRequestUriInvalid);
        }
        let host = url.host().ok_or(WasiError::HttpRequestUriInvalid)?;
        let is_granted = self.grants.hosts.iter().any(|pattern| pattern.matches(&host, place.port));
        let judged = if is_granted { self.egress.policy.judge(&host, place.port) } else { Err(Denial::NotGranted) };
        let reach = judged.map_err(|denial| {
            self.record(FetchFault::Denied { place: place.clone(), denial });
            WasiError::HttpRequestDenied
        })?;
        let clients = self.egress.clients.as_ref().ok_or(WasiError::ConfigurationError)?;
        Ok(match reach {
            Reach::AnyAddress => &clients.named,
            Reach::PublicAddresses => &clients.public,
        })
    }

    /// Reads a request's body whole, so that it goes out with its length.
    async fn collect(&self, body: WasiBody, place: &Place) -> Result<Bytes, WasiError> {
        match Limited::new(body, self.bytes).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                self.record(FetchFault::RequestTooLarge { place: place.clone() });
                Err(WasiError::HttpRequestBodySize(Some(self.bytes as u64)))
            }
            Err(error) => Err(WasiError::InternalError(Some(error.to_string()))),
        }
    }

    /// Puts an answer's headers and body under the limits.
    fn hold(
        &self,
        answer: http::Response<reqwest::Body>,
        place: Place,
        deadline: Instant,
        fetch_time: FetchTime,
    ) -> Result<http::Response<WasiBody>, WasiError> {
        let (head, body) = answer.into_parts();
        let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let room = self.bytes.saturating_sub(headers);
        if body.size_hint().lower() > room as u64 || headers > self.bytes {
            self.record(FetchFault::TooLarge { place });
            return Err(WasiError::HttpResponseBodySize(Some(self.bytes as u64)));
        }
        let body = LeashedBody {
            body: Box::pin(Limited::new(body, room)),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            leash: self.clone(),
            place,
            _fetch_time: fetch_time,
        };
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
    }

    /// Tells the plugin why there is no answer, and remembers it where the host is the reason.
    fn explain(&self, error: &reqwest::Error, place: &Place) -> WasiError {
        if let Some(NotPublic(kind)) = find_cause(error) {
            self.record(FetchFault::Denied { place: place.clone(), denial: Denial::Private(kind) });
            return WasiError::DestinationIpProhibited;
        }
        if error.is_timeout() {
            self.record(FetchFault::TooSlow { place: place.clone() });
            return WasiError::ConnectionTimeout;
        }
        match find_cause::<std::io::Error>(error).map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionRefused) => WasiError::ConnectionRefused,
            _ if error.is_dns() => WasiError::DnsError { rcode: None, info_code: None },
            _ => WasiError::InternalError(Some(with_causes(error))),
        }
    }
}

impl Place {
    fn of(url: &Url) -> Option<Place> {
        let is_name = matches!(url.host()?, url::Host::Domain(_));
        Some(Place { host: url.host_str()?.to_owned(), port: url.port_or_known_default()?, is_name })
    }
}

/// An answer's body, cut off at its size and at the fetch's time.
struct LeashedBody {
    body: Pin<Box<Limited<reqwest::Body>>>,
    deadline: Pin<Box<Sleep>>,
    leash: Leash,
    place: Place,
    _fetch_time: FetchTime,
}

/// Adds the time of a fetch when it ends, whichever way.
struct FetchTime {
    started: Instant,
    spent: Arc<Mutex<Duration>>,
}

impl Drop for FetchTime {
    fn drop(&mut self) {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) += self.started.elapsed();
    }
}

impl Body for LeashedBody {
    type Data = Bytes;
    type Error = WasiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WasiError>>> {
        // First the time: a server that always has one more byte to send must not get around it.
        if self.deadline.as_mut().poll(context).is_ready() {
            self.leash.record(FetchFault::TooSlow { place: self.place.clone() });
            return Poll::Ready(Some(Err(WasiError::HttpResponseTimeout)));
        }
        self.body.as_mut().poll_frame(context).map_err(|error| {
            if error.is::<LengthLimitError>() {
                self.leash.record(FetchFault::TooLarge { place: self.place.clone() });
                return WasiError::HttpResponseBodySize(Some(self.leash.bytes as u64));
            }
            WasiError::InternalError(Some(with_causes(error.as_ref())))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
