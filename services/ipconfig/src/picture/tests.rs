use imaccess_common::gateway_page::GatewayPage;

use super::*;
use crate::targets::EndpointTarget;

const ABSENCE: Duration = Duration::from_secs(3);

fn target(name: &str) -> Arc<GatewayTarget> {
    let endpoint = EndpointTarget {
        protocol: "tcp".to_owned(),
        host: name.to_owned(),
        port: 1,
        server_name: None,
    };
    Arc::new(GatewayTarget {
        name: name.to_owned(),
        metrics: format!("{name}:9100"),
        endpoints: vec![endpoint],
        draining: false,
    })
}

fn page(connections: f64) -> Option<GatewayPage> {
    Some(GatewayPage {
        connections,
        connection_limit: 1_000.0,
        bandwidth: 1e9,
        ..GatewayPage::default()
    })
}

/// A picture of gateways named by letters, in virtual milliseconds.
struct Scene {
    picture: Picture,
    names: Vec<&'static str>,
}

impl Scene {
    fn of(names: &[&'static str]) -> Scene {
        let mut picture = Picture::new(Duration::from_secs(5), ABSENCE);
        picture.take_targets(&names.iter().map(|name| target(name)).collect::<Vec<_>>());
        Scene {
            picture,
            names: names.to_vec(),
        }
    }

    /// A round at `at` in which `failing` give no page.
    fn round(&mut self, at: u64, failing: &[&str]) -> &mut Scene {
        let results = self.names.iter().map(|name| {
            (
                target(name),
                if failing.contains(name) { None } else { page(10.0) },
            )
        });
        self.picture.take_round(CoarseInstant(at), results);
        self
    }

    fn listed(&mut self, at: u64) -> String {
        let mut names: Vec<_> = self
            .picture
            .candidates(CoarseInstant(at))
            .iter()
            .map(|candidate| self.picture.target(candidate.index).name.clone())
            .collect();
        names.sort();
        names.concat()
    }
}

#[test]
fn one_that_can_not_be_scraped_leaves_within_three_seconds() {
    let mut scene = Scene::of(&["a", "b", "c"]);
    assert_eq!(scene.round(0, &[]).listed(0), "abc");
    for at in [1_000, 2_000] {
        assert_eq!(scene.round(at, &["c"]).listed(at), "abc", "{at}");
        // The next look is due when the absence is over, not when the next round happens to end.
        assert_eq!(
            scene.picture.next_departure(CoarseInstant(at)),
            Some(CoarseInstant(3_000))
        );
    }
    assert_eq!(scene.listed(2_999), "abc");
    assert_eq!(scene.listed(3_000), "ab");
    assert_eq!(scene.picture.next_departure(CoarseInstant(3_000)), None);
    assert_eq!(scene.picture.census().left, 1);
    assert_eq!(scene.round(4_000, &["c"]).listed(4_000), "ab");
    assert_eq!(
        scene.round(5_000, &[]).listed(5_000),
        "abc",
        "one good scrape brings it back"
    );
}

#[test]
fn when_more_than_half_fail_the_last_picture_stays() {
    let mut scene = Scene::of(&["a", "b", "c", "d"]);
    scene.round(0, &[]);
    for at in (1_000..60_000).step_by(1_000) {
        assert_eq!(scene.round(at, &["a", "b", "c"]).listed(at), "abcd", "{at}");
    }
    assert!(scene.picture.census().scraper_ill);
    // Exactly half is no illness: they leave.
    assert_eq!(scene.round(60_000, &["a", "b"]).listed(60_000), "cd");
    // Who has left before the illness doesn't come back by it.
    for at in (61_000..70_000).step_by(1_000) {
        assert_eq!(scene.round(at, &["a", "b", "c"]).listed(at), "cd", "{at}");
    }
    assert_eq!(scene.round(70_000, &["a", "b", "c", "d"]).listed(79_000), "cd");
}

#[test]
fn an_illness_is_seen_before_anybody_leaves() {
    // All fail at once, but the last good scrapes were not at the same moment.
    let mut scene = Scene::of(&["a", "b", "c"]);
    scene
        .round(0, &[])
        .round(1_000, &["a"])
        .round(2_000, &["a", "b", "c"]);
    assert_eq!(scene.listed(3_000), "abc");
    assert_eq!(scene.listed(9_000), "abc");
}

#[test]
fn a_single_gateway_never_leaves_by_failing() {
    let mut scene = Scene::of(&["a"]);
    scene.round(0, &[]);
    assert_eq!(scene.round(1_000, &["a"]).listed(100_000), "a");
}

#[test]
fn one_that_is_no_target_any_more_is_gone_at_once() {
    let mut scene = Scene::of(&["a", "b"]);
    scene.round(0, &[]);
    scene.picture.take_targets(&[target("b")]);
    assert_eq!(scene.listed(0), "b");
    scene.picture.take_targets(&[]);
    assert_eq!(scene.listed(0), "");
}

#[test]
fn before_the_first_pages_everyone_is_listed() {
    let mut scene = Scene::of(&["a", "b"]);
    assert_eq!(scene.listed(0), "ab");
    assert_eq!(scene.round(1_000, &["a", "b"]).listed(10_000), "ab");
    assert_eq!(
        scene.picture.census(),
        Census {
            unseen: 2,
            ..Census::default()
        }
    );
    assert_eq!(
        scene.round(2_000, &["a"]).listed(10_000),
        "b",
        "as soon as one is seen, unseen ones wait"
    );
    // New targets that aren't up yet are no illness: a seen one that fails among them leaves.
    let mut scene = Scene::of(&["a", "b", "c", "d", "e", "f"]);
    scene.round(0, &["c", "d", "e", "f"]);
    assert_eq!(scene.round(1_000, &["b", "c", "d", "e", "f"]).listed(3_000), "a");
}

#[test]
fn draining_ones_are_listed_only_if_nobody_else_is_left() {
    let mut scene = Scene::of(&["a", "b"]);
    let draining = |connections| {
        page(connections).map(|page| GatewayPage {
            draining: true,
            ..page
        })
    };
    scene.picture.take_round(
        CoarseInstant(0),
        [(target("a"), draining(1.0)), (target("b"), page(2.0))],
    );
    assert_eq!(scene.listed(0), "b");
    assert_eq!(scene.picture.census().draining, 1);
    scene.picture.take_round(
        CoarseInstant(1_000),
        [(target("a"), draining(1.0)), (target("b"), draining(2.0))],
    );
    assert_eq!(scene.listed(1_000), "ab");
}

#[test]
fn a_moved_page_is_another_gateway() {
    let mut scene = Scene::of(&["a"]);
    scene.round(0, &[]);
    let same = GatewayTarget {
        endpoints: Vec::new(),
        ..(*target("a")).clone()
    };
    scene.picture.take_targets(&[Arc::new(same)]);
    assert_eq!(
        scene.picture.census().unseen,
        0,
        "other endpoints, the same gateway"
    );
    let moved = GatewayTarget {
        metrics: "elsewhere:1".to_owned(),
        ..(*target("a")).clone()
    };
    scene.picture.take_targets(&[Arc::new(moved)]);
    assert_eq!(scene.picture.census().unseen, 1);
}

#[test]
fn clients_on_their_way_count_until_they_are_seen() {
    let mut scene = Scene::of(&["a"]);
    let remaining = |scene: &mut Scene, at| scene.picture.candidates(CoarseInstant(at))[0].remaining;
    let take = |scene: &mut Scene, at, connections| {
        scene
            .picture
            .take_round(CoarseInstant(at), [(target("a"), page(connections))]);
    };
    take(&mut scene, 0, 100.0);
    assert_eq!(remaining(&mut scene, 0), 900);
    scene.picture.count_answers("a", 50);
    scene.picture.count_answers("unknown", 50);
    assert_eq!(remaining(&mut scene, 0), 850);
    // They have come: the mean shows half of it so far, the other half is still outstanding.
    take(&mut scene, 1_000, 150.0);
    assert_eq!(remaining(&mut scene, 1_000), 850);
    // They didn't come within the window: they don't count any more.
    let mut scene = Scene::of(&["a"]);
    take(&mut scene, 0, 100.0);
    scene.picture.count_answers("a", 50);
    for at in (1_000..=5_000).step_by(1_000) {
        take(&mut scene, at, 100.0);
        assert_eq!(remaining(&mut scene, at), 850, "{at}");
    }
    take(&mut scene, 6_000, 100.0);
    assert_eq!(remaining(&mut scene, 6_000), 900);
}

/// The same target, of a pod that is terminating.
fn terminating(name: &str) -> Arc<GatewayTarget> {
    Arc::new(GatewayTarget {
        draining: true,
        ..(*target(name)).clone()
    })
}

#[test]
fn a_terminating_pod_leaves_at_once_unless_nobody_else_is_left() {
    let mut scene = Scene::of(&["a", "b"]);
    scene.round(0, &[]);
    scene.picture.take_targets(&[terminating("a"), target("b")]);
    assert_eq!(scene.listed(0), "b");
    assert_eq!(scene.picture.standings()[0].state, State::Draining);
    scene.picture.take_targets(&[terminating("a"), terminating("b")]);
    assert_eq!(scene.listed(0), "ab");
    // One that isn't up yet doesn't replace one that still serves.
    scene.picture.take_targets(&[terminating("a"), target("c")]);
    assert_eq!(scene.listed(0), "a");
    // Before anything was read, those that stay come before those that go.
    scene.picture.take_targets(&[terminating("d"), target("c")]);
    assert_eq!(scene.listed(0), "c");
    scene.picture.take_targets(&[terminating("d")]);
    assert_eq!(scene.listed(0), "d");
}

#[test]
fn while_the_source_is_away_the_last_picture_stays() {
    let mut scene = Scene::of(&["a", "b", "c"]);
    scene.round(0, &[]).round(1_000, &["c"]);
    for at in (2_000..60_000).step_by(1_000) {
        scene.picture.take_outage();
        assert_eq!(scene.listed(at), "abc", "{at}");
    }
    assert!(scene.picture.census().scraper_ill);
    // A pod that goes meanwhile is gone.
    scene.picture.take_targets(&[target("b"), target("c")]);
    assert_eq!(scene.listed(60_000), "bc");
    // It is back, and can't say yet whether c lives; then it can.
    scene.picture.take_round(
        CoarseInstant(61_000),
        [(target("b"), page(1.0)), (target("c"), page(1.0))],
    );
    assert_eq!(scene.listed(61_000), "bc");
    assert_eq!(scene.round(64_000, &["c"]).listed(64_000), "b");
}

#[test]
fn an_old_reading_counts_from_its_own_time() {
    let mut scene = Scene::of(&["a", "b", "c"]);
    let aged = |name, age| {
        let page = page(10.0).unwrap();
        let reading = Reading {
            age: Duration::from_millis(age),
            ..Reading::from(page)
        };
        (target(name), Some(reading))
    };
    let readings = [aged("a", 0), aged("b", 0), aged("c", 900)];
    scene.picture.take_round(CoarseInstant(5_000), readings);
    scene.round(6_000, &["c"]);
    assert_eq!(scene.listed(7_099), "abc");
    assert_eq!(scene.listed(7_100), "ab");
}

#[test]
fn means_that_the_source_computed_are_taken_as_they_are() {
    let mut scene = Scene::of(&["a"]);
    let read = |scene: &mut Scene, at, connections, mean| {
        let means = ReadMeans {
            connections: mean,
            rate: 2e7,
        };
        let reading = Reading {
            means: Some(means),
            ..Reading::from(page(connections).unwrap())
        };
        let round = [(target("a"), Some(reading))];
        scene.picture.take_round(CoarseInstant(at), round);
    };
    read(&mut scene, 0, 100.0, 90.0);
    read(&mut scene, 1_000, 100.0, 100.0);
    let figures = scene.picture.standings()[0].figures.unwrap();
    assert_eq!((figures.dynamic, figures.static_), (0.98, 900));
    assert_eq!((figures.connections, figures.rate), (100.0, 2e7));
    // Its own answers are outstanding all the same.
    scene.picture.count_answers("a", 50);
    assert_eq!(scene.picture.candidates(CoarseInstant(1_000))[0].remaining, 850);
}
