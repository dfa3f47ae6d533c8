use super::*;

/// Enters `+a1@7`: process 7 handles a under token 1; `-a1@7`: it terminates it. All processes
/// live at first.
fn ledger(reports: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    (1..10).for_each(|process| ledger.started(process));
    add(&mut ledger, reports);
    ledger
}

fn add(ledger: &mut Ledger, reports: &[&str]) {
    for text in reports {
        let _ = enter(ledger, text);
    }
}

fn enter(ledger: &mut Ledger, text: &str) -> bool {
    let (what, process) = text.split_once('@').unwrap();
    let report = Report {
        event: match &what[..1] {
            "+" => Event::Handle,
            _ => Event::Terminate,
        },
        id: id(&what[1..2]),
        token: Token(what[2..].parse().unwrap()),
    };
    ledger.record(report, process.parse().unwrap(), Instant::now())
}

fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

fn tally(held_once: u64, held_twice: u64, not_held: u64, overlaps: u64) -> Tally {
    Tally {
        held_once,
        held_twice,
        not_held,
        overlaps,
    }
}

#[test]
fn a_resource_that_moves_in_order_is_held_once() {
    let ledger = ledger(&["+a1@1", "+b1@1", "-a1@1", "+a2@2"]);
    assert_eq!(ledger.tally(2), tally(2, 0, 0, 0));
    assert!(ledger.tally(2).is_exact());
    assert_eq!([ledger.held_by(1), ledger.held_by(2)], [1, 1]);
    assert_eq!(ledger.holder(&id("a")), Some(2));
}

#[test]
fn an_overlap_is_seen_and_never_forgotten() {
    let mut ledger = ledger(&["+a1@1", "+a2@2"]);
    assert_eq!(ledger.tally(1), tally(0, 1, 0, 1));
    assert_eq!(ledger.holder(&id("a")), None);
    add(&mut ledger, &["-a1@1"]);
    assert_eq!(ledger.tally(1), tally(1, 0, 0, 1));
    assert!(!ledger.tally(1).is_exact());
}

#[test]
fn two_processes_under_one_token_are_two_owners() {
    let mut ledger = ledger(&["+a1@1", "+a1@2"]);
    assert_eq!(ledger.tally(1), tally(0, 1, 0, 1));
    add(&mut ledger, &["-a1@2"]);
    assert_eq!(ledger.holder(&id("a")), Some(1));
}

#[test]
fn an_owner_of_the_past_that_comes_back_is_an_overlap() {
    let ledger = ledger(&["+a1@1", "-a1@1", "+a2@2", "+a1@1"]);
    assert_eq!(ledger.tally(1), tally(0, 1, 0, 1));
}

#[test]
fn a_loss_is_seen() {
    let mut ledger = ledger(&["+a1@1", "+b1@2", "+c1@1"]);
    add(&mut ledger, &["-a1@1"]);
    assert_eq!(ledger.killed(2), HashSet::from([id("b")]));
    assert_eq!(ledger.tally(4), tally(1, 0, 3, 0));
    assert!(!ledger.tally(4).is_exact());
}

#[test]
fn what_a_killed_process_held_may_be_handled_elsewhere() {
    let mut ledger = ledger(&["+a1@1", "+b1@2"]);
    ledger.killed(1);
    let mark = ledger.events();
    add(&mut ledger, &["+a2@2"]);
    assert_eq!(ledger.tally(2), tally(2, 0, 0, 0));
    assert_eq!(ledger.begun_after(mark), HashSet::from([id("a")]));
}

#[test]
fn what_another_process_held_may_not() {
    let mut ledger = ledger(&["+a1@1", "+b1@2"]);
    ledger.killed(1);
    add(&mut ledger, &["+b2@3"]);
    assert_eq!(ledger.tally(2), tally(0, 1, 1, 1));
}

#[test]
fn of_two_owners_only_the_killed_one_is_gone() {
    let mut ledger = ledger(&["+a1@1", "+a2@2"]);
    assert_eq!(ledger.killed(1), HashSet::from([id("a")]));
    assert_eq!(ledger.holder(&id("a")), Some(2));
    assert_eq!(ledger.tally(1), tally(1, 0, 0, 1));
}

#[test]
fn the_dead_say_nothing_until_they_are_started_anew() {
    let mut ledger = ledger(&[]);
    ledger.killed(1);
    assert!(!enter(&mut ledger, "+a1@1"));
    assert_eq!(ledger.tally(1), tally(0, 0, 1, 0));
    assert!(!ledger.living().contains(&1));
    ledger.started(1);
    assert!(enter(&mut ledger, "+a1@1"));
    assert_eq!(ledger.tally(1), tally(1, 0, 0, 0));
}

#[test]
fn an_owner_may_start_anew_under_its_token() {
    let ledger = ledger(&["+a1@1", "+a1@1"]);
    assert_eq!(ledger.tally(1), tally(1, 0, 0, 0));
}

#[test]
fn a_late_report_of_an_earlier_owner_ends_nothing() {
    let ledger = ledger(&["+a1@1", "-a1@1", "+a2@2", "-a1@1"]);
    assert_eq!(ledger.tally(1), tally(1, 0, 0, 0));
}
