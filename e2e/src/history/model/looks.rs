//! What is asked and pushed while a device is there, and while it is gone.

use super::super::record::{Device, Moment, Presence, Push, Query, Said, Sighting, Span};
use super::{Here, REPLICAS, World, ms};

impl World {
    /// Whether anything can be said of a pod around a moment.
    fn can_say(&self, pod: usize, at: Moment) -> bool {
        self.fault(pod, at.minus(ms(100))).is_none() && self.fault(pod, at.plus(ms(100))).is_none()
    }

    /// Pushes and questions to a device that is connected from `here` until a moment.
    pub(super) fn look(&mut self, device: Device, here: Here, until: Moment) {
        let mut at = here.since.plus(ms(self.random.u64(60..3_000)));
        while at.plus(ms(100)) < until {
            let span = Span::new(at, at.plus(ms(4)));
            let well = self.can_say(here.pod, at);
            if self.random.bool() {
                let said = if well { Said::Written } else { Said::Retry };
                let id = self.push(device, span, Some(said));
                if well {
                    self.history.sightings.push(Sighting {
                        push: Some(id),
                        connection: here.number,
                        at: at.plus(ms(2)),
                    });
                }
            } else {
                let said = if well { Presence::Online } else { Presence::Retry };
                self.ask(device, span, said);
            }
            at = at.plus(ms(self.random.u64(200..4_000)));
        }
    }

    /// Pushes and questions to a device that is gone since a moment; when it comes again.
    pub(super) fn absence(&mut self, device: Device, since: Moment) -> Moment {
        let back = since.plus(ms(self.random.u64(500..20_000)));
        let mut at = since.plus(ms(self.random.u64(100..3_000)));
        while at.plus(ms(100)) < back {
            let span = Span::new(at, at.plus(ms(4)));
            if self.random.bool() {
                self.push(device, span, Some(Said::Offline));
            } else {
                self.ask(device, span, Presence::Offline);
            }
            at = at.plus(ms(self.random.u64(300..5_000)));
        }
        back
    }

    fn push(&mut self, device: Device, span: Span, said: Option<Said>) -> u64 {
        let id = self.history.pushes.len() as u64 + 1;
        self.history.pushes.push(Push {
            id,
            replica: self.random.usize(..REPLICAS),
            devices: vec![device],
            span,
            answers: said.map(|said| vec![said]),
        });
        id
    }

    fn ask(&mut self, device: Device, span: Span, said: Presence) {
        self.history.queries.push(Query {
            replica: self.random.usize(..REPLICAS),
            devices: vec![device],
            span,
            answers: Some(vec![said]),
        });
    }
}
