//! Where a business's servers are, and at which of them a stream begins.
//!
//! A business's places are the addresses of all its endpoints, sorted, so that everybody counts them alike. Stream `i` of worker `w`
//! begins at place `k + i + w`, where `k` is the instance's own: so the streams of a worker are spread, and those of many pods as well
//! when there are more places than streams. A place that can't be reached is passed over from then on, until its turn comes again.
//! Hosts are looked up anew for each dial.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Uri;
use imaccess_common::business::{BusinessConfig, host_and_port};
use imaccess_common::identity::InstanceId;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{DIAL_TIMEOUT, Fault};

/// Places that are tried before a stream pauses: one that is away costs the others' time, and a server that drops what it is sent
/// costs [`DIAL_TIMEOUT`].
const TRIES: usize = 3;

/// A connection that takes this long has lost packets, or there is nobody: networks within a data centre take milliseconds.
const SLOW: Duration = Duration::from_millis(250);

/// How long a look-up is good: many calls that need connections at once share one.
const FRESH: Duration = Duration::from_secs(1);

/// Where the first stream of a worker begins.
#[must_use]
pub fn first_place(instance: &str, worker: u8) -> usize {
    // Any few bits of the key will do; so many can't overflow with what is added.
    (InstanceId::from(instance).key() >> 40) as usize + usize::from(worker)
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// Its endpoint, for the request's authority: the host as it was written.
    pub(super) origin: Uri,
}

impl Place {
    /// A connection to it.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(self.address)).await??;
        // Calls go out when they are there: waiting to fill a segment would only delay them. Failing costs only that.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// An attempt to reach a place that hasn't come to its end.
struct Attempt<'a> {
    places: &'a Places,
    number: usize,
    since: Instant,
    is_over: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // Nobody waited for long enough to hear that it fails: whoever comes next needn't begin with the same.
        if !self.is_over && self.since.elapsed() >= SLOW {
            self.places.pass(self.number);
        }
    }
}

#[derive(Debug)]
struct Endpoint {
    host: String,
    port: u16,
    origin: Uri,
}

/// The places of a business as one stream sees them.
#[derive(Debug)]
pub(super) struct Places {
    endpoints: Vec<Endpoint>,
    /// The stream's own, and by how many it has gone on since.
    own: usize,
    passed: AtomicUsize,
    known: Mutex<Option<(Instant, Arc<[Place]>)>>,
}

impl Places {
    pub(super) fn new(config: &BusinessConfig, own: usize) -> Self {
        let endpoints = config.all_endpoints().iter().filter_map(|endpoint| {
            let (host, port) = host_and_port(endpoint)?;
            let origin = endpoint.parse().ok()?;
            Some(Endpoint { host, port, origin })
        });
        Self {
            endpoints: endpoints.collect(),
            own,
            passed: AtomicUsize::new(0),
            known: Mutex::new(None),
        }
    }

    /// How many there are now; 0 if that can't be found out.
    pub(super) async fn count(&self) -> usize {
        self.look().await.map_or(0, |places| places.len())
    }

    /// Tries places, the stream's first, until `open` succeeds at one.
    pub(super) async fn dial<T, F>(&self, open: impl Fn(Place) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let tries = self.look().await?.len().min(TRIES);
        for _ in 1..tries {
            if let Ok(opened) = self.try_next(&open).await {
                return Ok(opened);
            }
        }
        self.try_next(&open).await
    }

    /// Tries the stream's place. If it can't be reached, or takes long when this is dropped, it is the next one's turn.
    pub(super) async fn try_next<T, E, F>(&self, open: impl FnOnce(Place) -> F) -> Result<T, E>
    where
        E: From<io::Error>,
        F: Future<Output = Result<T, E>>,
    {
        let (place, number) = self.next().await?;
        let mut attempt = Attempt {
            places: self,
            number,
            since: Instant::now(),
            is_over: false,
        };
        let opened = open(place).await;
        attempt.is_over = true;
        if opened.is_err() {
            self.pass(number);
        }
        opened
    }

    /// The place to try, and the number of the attempt.
    async fn next(&self) -> io::Result<(Place, usize)> {
        let places = self.look().await?;
        let number = self.passed.load(Ordering::Relaxed);
        let at = (self.own + number) % places.len();
        Ok((places[at].clone(), number))
    }

    /// The place of that attempt can't be reached. Of several that found it out together the first counts.
    fn pass(&self, number: usize) {
        let _ = self
            .passed
            .compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// All of them, at least one.
    async fn look(&self) -> io::Result<Arc<[Place]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, places)) = known
            && at.elapsed() < FRESH
        {
            return Ok(places);
        }
        let mut places = Vec::new();
        let mut fault = None;
        for endpoint in &self.endpoints {
            match endpoint.addresses().await {
                Ok(addresses) => places.extend(addresses.into_iter().map(|address| Place {
                    address,
                    origin: endpoint.origin.clone(),
                })),
                // The others may do.
                Err(error) => fault = Some(error),
            }
        }
        let places = in_order(places);
        if places.is_empty() {
            return Err(fault.unwrap_or_else(nowhere));
        }
        let looked = (Instant::now(), Arc::clone(&places));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        Ok(places)
    }
}

impl Endpoint {
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let found = tokio::time::timeout(DIAL_TIMEOUT, tokio::net::lookup_host((bare, self.port))).await;
        let late = |_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the host {bare} isn't found in time"),
            )
        };
        Ok(found.map_err(late)??.collect())
    }
}

/// As everybody counts them: a server that is listed twice is one.
fn in_order(mut places: Vec<Place>) -> Arc<[Place]> {
    places.sort_by_key(|place| place.address);
    places.dedup_by_key(|place| place.address);
    places.into()
}

fn nowhere() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "its endpoints have no address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(endpoints: &[&str], own: usize) -> Places {
        let mut config = BusinessConfig::new(1, "b", "");
        config.endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Places::new(&config, own)
    }

    const THREE: [&str; 3] = ["http://10.0.0.3:80", "http://10.0.0.1:80", "http://10.0.0.2:80"];

    async fn next(places: &Places) -> (String, usize) {
        let (place, attempt) = places.next().await.unwrap();
        (place.address.to_string(), attempt)
    }

    #[tokio::test]
    async fn streams_begin_one_after_the_other_and_go_on_where_one_is_away() {
        let mut first = Vec::new();
        for own in 4..7 {
            first.push(next(&places(&THREE, own)).await.0);
        }
        assert_eq!(first, ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"]);
        let places = places(&THREE, 0);
        let (_, attempt) = next(&places).await;
        places.pass(attempt);
        // Somebody else who saw the same.
        places.pass(attempt);
        assert_eq!(next(&places).await.0, "10.0.0.2:80");
        assert_eq!(next(&places).await.0, "10.0.0.2:80", "it stays there");
        for _ in 0..2 {
            let (_, attempt) = next(&places).await;
            places.pass(attempt);
        }
        assert_eq!(next(&places).await.0, "10.0.0.1:80");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_on_a_slow_place_leaves_the_next_one_to_others() {
        let places = places(&THREE, 0);
        let nobody = |_| std::future::pending::<Result<(), io::Error>>();
        for (patience, expected) in [(100, "10.0.0.1:80"), (300, "10.0.0.2:80")] {
            let trying = places.try_next(nobody);
            let given_up = tokio::time::timeout(Duration::from_millis(patience), trying).await;
            assert!(given_up.is_err());
            assert_eq!(next(&places).await.0, expected);
        }
        let there = |place: Place| std::future::ready(Ok::<_, io::Error>(place.address.to_string()));
        assert_eq!(places.try_next(there).await.unwrap(), "10.0.0.2:80");
        assert_eq!(next(&places).await.0, "10.0.0.2:80");
    }

    #[tokio::test]
    async fn a_dial_tries_others_and_says_why_none_could_be_reached() {
        let places = places(&THREE, 0);
        let tried = Mutex::new(Vec::new());
        let refused = |place: Place| {
            tried.lock().unwrap().push(place.address.to_string());
            std::future::ready(Err::<(), _>(Fault::from(io::Error::other("refused"))))
        };
        let Err(Fault::Stream(fault)) = places.dial(refused).await else {
            panic!("it is refused");
        };
        assert_eq!(fault.to_string(), "refused");
        assert_eq!(
            *tried.lock().unwrap(),
            ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
        );
        let second = |place: Place| {
            let there = place.address.to_string() == "10.0.0.2:80";
            let refused = || Fault::from(io::Error::other("refused"));
            std::future::ready(there.then_some("there").ok_or_else(refused))
        };
        assert!(matches!(places.dial(second).await, Ok("there")));
        assert_eq!(next(&places).await.0, "10.0.0.2:80");
    }

    #[tokio::test]
    async fn a_host_is_looked_up_and_the_same_server_counts_once() {
        let places = places(&["http://localhost:7", "http://127.0.0.1:7", "http://[::1]:8"], 0);
        let count = places.count().await;
        assert!((2..=3).contains(&count), "{count}");
        let (place, _) = places.next().await.unwrap();
        assert_eq!(place.address.to_string(), "127.0.0.1:7");
    }

    #[tokio::test]
    async fn a_host_that_is_unknown_leaves_the_others() {
        let some = places(&["http://nothing.invalid:7", "http://127.0.0.1:7"], 1);
        assert_eq!(some.count().await, 1);
        assert_eq!(next(&some).await.0, "127.0.0.1:7");
        let none = places(&["http://nothing.invalid:7"], 0);
        assert_eq!(none.count().await, 0);
        assert!(none.next().await.is_err());
    }

    #[test]
    fn instances_begin_at_different_places() {
        let begin: std::collections::HashSet<usize> = (0..100)
            .map(|pod| first_place(&format!("pod-{pod}"), 0) % 64)
            .collect();
        assert!(begin.len() > 32, "{begin:?}");
        assert_eq!(first_place("pod", 3), first_place("pod", 0) + 3);
    }
}
