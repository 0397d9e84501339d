//! Businesses that come, change and go while the worker runs. No connection is closed for it, and no other business's stream is touched.
//!
//! A business keeps its place in the list for ever, for requests in flight and streams name it by that. One that is to be
//! reached otherwise (endpoints, protocol, number of streams) gets a new place: requests go to the old one until a stream of the new one is up, then the old one finishes what
//! it has. One that is removed is unknown at once, and finishes too. A place that is done with costs nothing but itself, so places aren't
//! used again.

use imaccess_common::business::BusinessConfig;

use super::Machine;
use super::business::{Business, Life};

/// Places there may be: requests in flight name theirs in 16 bits. A change a minute lasts for six weeks.
const MAX_PLACES: usize = u16::MAX as usize;

impl Machine {
    /// From now on these are the businesses. Returns the places of those to be dialled.
    pub fn set_businesses(&mut self, listed: &[BusinessConfig]) -> Vec<usize> {
        let mut dial = Vec::new();
        for place in 0..self.businesses.len() {
            let old = &self.businesses[place];
            let id = old.config.id;
            match listed.iter().find(|new| new.id == id) {
                None if old.life != Life::Done => self.retire(place),
                Some(new) if old.life == Life::Serving && *new != old.config => {
                    if new.is_reached_like(&old.config) {
                        self.rename(place, new);
                    } else if let Some(successor) = self.add(new) {
                        let events = self.businesses[place].take_events(self.settings.event_backlog_bytes);
                        self.businesses[successor].events = events;
                        self.businesses[place].life = Life::Replaced;
                        dial.push(successor);
                    }
                }
                _ => {}
            }
        }
        for new in listed {
            let serves = |business: &Business| business.config.id == new.id && business.life == Life::Serving;
            if !self.businesses.iter().any(serves) {
                dial.extend(self.add(new));
            }
        }
        // Serials of events that were dropped.
        self.events_done();
        dial
    }

    /// How many places there are, those that are done with included.
    #[must_use]
    pub fn count_places(&self) -> usize {
        self.businesses.len()
    }

    /// The configuration of the business at a place.
    #[must_use]
    pub fn business_at(&self, place: usize) -> &BusinessConfig {
        &self.businesses[place].config
    }

    /// Places whose streams are to be dialled, or kept.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.businesses.len()).filter(|place| self.businesses[*place].life == Life::Serving)
    }

    /// Whether every business can be asked, or is known to be away.
    #[must_use]
    pub fn awaits_no_business(&self) -> bool {
        self.places().all(|place| !self.businesses[place].is_awaited())
    }

    /// The places that are done with since the last call: their streams may end.
    pub fn take_done_places(&mut self) -> Vec<usize> {
        if self.retiring == 0 {
            return Vec::new();
        }
        let mut done = Vec::new();
        for (place, business) in self.businesses.iter_mut().enumerate() {
            if business.life == Life::Retiring && business.in_flight == 0 && !business.has_requests() {
                business.life = Life::Done;
                business.end_counts();
                self.retiring -= 1;
                done.push(place);
            }
        }
        done
    }

    /// A business's stream is up: whoever had its place before only finishes.
    pub(super) fn succeeded(&mut self, place: usize) {
        if self.businesses[place].life != Life::Serving {
            return;
        }
        let id = self.businesses[place].config.id;
        for other in 0..self.businesses.len() {
            let replaced = &self.businesses[other];
            if replaced.config.id == id && replaced.life == Life::Replaced {
                self.retire(other);
            }
        }
    }

    /// The place to which requests of this business go.
    pub(super) fn business_index(&self, id: u32) -> Option<usize> {
        // A handful: looking at each beats hashing.
        let serves = |business: &Business| business.config.id == id && business.life == Life::Serving;
        let place = self.businesses.iter().position(serves)?;
        if self.businesses[place].is_up() {
            return Some(place);
        }
        // Its predecessor, as long as it isn't there itself.
        let before = |business: &Business| {
            business.config.id == id && business.life == Life::Replaced && business.is_up()
        };
        Some(self.businesses.iter().rposition(before).unwrap_or(place))
    }

    fn retire(&mut self, place: usize) {
        let business = &mut self.businesses[place];
        if matches!(business.life, Life::Retiring | Life::Done) {
            return;
        }
        business.life = Life::Retiring;
        self.retiring += 1;
        // Nobody is to hear of these any more.
        business.events.forget();
        business.note_events();
    }

    fn rename(&mut self, place: usize, new: &BusinessConfig) {
        if new.name != self.businesses[place].config.name {
            let metrics = self.metrics_of(new);
            self.businesses[place].count_under(metrics);
        }
        self.businesses[place].config = new.clone();
    }

    fn add(&mut self, new: &BusinessConfig) -> Option<usize> {
        if self.businesses.len() >= MAX_PLACES {
            tracing::error!(
                business = new.name,
                "businesses have changed too often: restart the sidecar"
            );
            return None;
        }
        let metrics = self.metrics_of(new);
        let backlog = self.settings.event_backlog_bytes;
        self.businesses.push(Business::new(new.clone(), metrics, backlog));
        Some(self.businesses.len() - 1)
    }

    fn metrics_of(&self, business: &BusinessConfig) -> crate::session::metrics::BusinessMetrics {
        let worker = self.settings.worker.to_string();
        self.shared.metrics.of_business(&business.name, &worker)
    }
}
