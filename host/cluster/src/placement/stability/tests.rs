use super::*;

/// Two nodes, one of which is seen to come and go; the other never leaves.
struct Watch {
    stability: Stability,
    after: Duration,
    now: Now,
    restarting: BTreeSet<NodeId>,
}

impl Watch {
    fn new(after_ms: u64) -> Self {
        Self {
            stability: Stability::default(),
            after: Duration::from_millis(after_ms),
            now: Now::ZERO,
            restarting: BTreeSet::new(),
        }
    }

    /// Looks after `ms` more, when these incarnations of the node are there: none or one.
    fn see(&mut self, ms: u64, incarnation: Option<u64>) {
        self.now += Duration::from_millis(ms);
        let watched = incarnation.map(|incarnation| run(1, incarnation));
        let present = watched.into_iter().chain([run(2, 1)]);
        self.stability.see(self.now, present, &self.restarting);
    }

    /// How long it takes until the node is stable, from now on, if it stays.
    fn wait_ms(&self) -> u64 {
        let is_stable = |ms: &u64| {
            let then = self.now + Duration::from_millis(*ms);
            self.stability.stable(then, self.after).contains(&node(1))
        };
        (0..1_000_000).step_by(100).find(is_stable).expect("it is")
    }
}

fn node(number: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(number))
}

fn run(number: u128, incarnation: u64) -> Owner {
    Owner {
        node: node(number),
        incarnation: Incarnation(incarnation),
    }
}

#[test]
fn a_node_is_stable_once_it_has_been_there_for_a_while() {
    let mut watch = Watch::new(1_000);
    watch.see(5_000, Some(1));
    assert_eq!(
        watch.stability.stable(watch.now, watch.after),
        BTreeSet::new()
    );
    assert_eq!(watch.wait_ms(), 1_000);
    let waits = watch.stability.waits(watch.now, watch.after);
    let left = Duration::from_millis(1_000);
    assert_eq!(waits[&node(1)], Wait { left, losses: 0 });
    watch.see(700, Some(1));
    assert_eq!(watch.wait_ms(), 300);
    watch.see(300, Some(1));
    assert_eq!(watch.wait_ms(), 0);
}

#[test]
fn a_node_that_is_away_is_not_stable_however_long_it_was_there() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    watch.see(60_000, None);
    let stable = watch
        .stability
        .stable(watch.now + Duration::from_secs(60), watch.after);
    assert_eq!(stable, BTreeSet::from([node(2)]));
}

#[test]
fn a_restart_that_was_announced_is_no_loss() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    for incarnation in 1..5 {
        watch.restarting = BTreeSet::from([node(1)]);
        watch.see(500, Some(incarnation));
        watch.see(500, None);
        // Whoever looks later sees it active already.
        watch.restarting.clear();
        watch.see(500, Some(incarnation + 1));
        assert_eq!(watch.wait_ms(), 1_000, "{incarnation}");
    }
    // What it announced then does not hold for what happens to the next run.
    watch.see(500, Some(5));
    watch.see(500, Some(6));
    assert_eq!(watch.wait_ms(), 2_000);
    // Nor is an absence of the same run what was announced.
    watch.restarting = BTreeSet::from([node(1)]);
    watch.see(500, Some(6));
    watch.see(500, None);
    watch.see(5_000, Some(6));
    assert_eq!(watch.wait_ms(), 4_000);
}

#[test]
fn each_loss_doubles_the_wait_up_to_a_limit() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    let waits = (2..12).map(|incarnation| {
        watch.see(5_000, None);
        watch.see(5_000, Some(incarnation));
        watch.wait_ms() / 1_000
    });
    let waits: Vec<u64> = waits.collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120, 120, 120]);
}

#[test]
fn a_new_run_is_a_loss_even_if_nobody_saw_the_old_one_go() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    watch.see(5_000, Some(2));
    assert_eq!(watch.wait_ms(), 2_000);
}

#[test]
fn a_connection_that_breaks_for_a_moment_is_no_loss() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    for _ in 0..10 {
        watch.see(2_000, None);
        assert!(
            !watch
                .stability
                .stable(watch.now, watch.after)
                .contains(&node(1))
        );
        watch.see(1_000, Some(1));
        assert_eq!(watch.wait_ms(), 0);
    }
    watch.see(2_000, None);
    watch.see(1_001, Some(1));
    assert_eq!(watch.wait_ms(), 2_000);
}

#[test]
fn a_pause_of_the_observer_is_nobodys_absence() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    watch.see(60_000, Some(1));
    assert_eq!(watch.wait_ms(), 0);
}

#[test]
fn losses_are_forgiven_to_a_node_that_stays() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    for incarnation in 2..6 {
        watch.see(5_000, Some(incarnation));
    }
    assert_eq!(watch.wait_ms(), 16_000);
    watch.see(599_000, Some(6));
    assert_eq!(watch.wait_ms(), 32_000);
    watch.see(600_000, None);
    watch.see(5_000, Some(7));
    assert_eq!(watch.wait_ms(), 2_000);
}

#[test]
fn a_node_that_was_away_for_long_is_forgotten() {
    let mut watch = Watch::new(1_000);
    watch.see(0, Some(1));
    watch.see(5_000, Some(2));
    watch.see(1_000, None);
    assert_eq!(watch.stability.nodes.len(), 2);
    watch.see(600_000, None);
    assert_eq!(watch.stability.nodes.len(), 1);
    watch.see(0, Some(3));
    assert_eq!(watch.wait_ms(), 1_000);
}

#[test]
fn without_a_wait_every_node_is_stable_while_it_is_there() {
    let mut watch = Watch::new(0);
    watch.see(0, Some(1));
    assert_eq!(watch.wait_ms(), 0);
    watch.see(5_000, Some(2));
    assert_eq!(watch.wait_ms(), 0);
}
