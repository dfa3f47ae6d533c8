//! Cursors and filters.

use holdfast_model::Incarnation;

use super::*;

fn node(first: &str) -> NodeId {
    format!("{first}000000-0000-4000-8000-000000000000")
        .parse()
        .unwrap()
}

#[test]
fn a_cursor_is_read_as_it_is_written() {
    let at = |incarnation, number| Position {
        incarnation: Incarnation(incarnation),
        number,
    };
    let cursor = Cursor {
        log: 7 << 20,
        instances: Positions([(node("1a"), at(1, 0)), (node("2b"), at(9, 1_234))].into()),
    };
    let text = cursor.to_string();
    assert_eq!(
        text,
        "7340032;1a00000000004000800000000000000 0.1.0;2b000000000040008000000000000000.9.1234"
            .replace(' ', "")
    );
    assert_eq!(text.parse(), Ok(cursor));
    assert_eq!("0".parse(), Ok(Cursor::default()));
    for text in [
        "",
        "x",
        "1;",
        "1;2",
        "-1",
        "1;1a.1.1",
        "1;2b000000000040008000000000000000.9.1.1",
    ] {
        let refused: Result<Cursor, _> = text.parse();
        assert!(refused.is_err(), "{text}");
    }
}

#[test]
fn an_event_passes_by_type_module_and_resource() {
    let event = Happening::ResourceAllocated {
        module: "m".parse().unwrap(),
        resource: "r".parse().unwrap(),
    };
    let moved = Happening::Moved {
        module: "m".parse().unwrap(),
        slot: "r".parse::<ResourceId>().unwrap().slot(),
        resources: 1,
        from: None,
        to: None,
        token: holdfast_model::Token(1),
    };
    let filter = |kind, module: &str, resource: &str| Filter {
        kind,
        module: module.parse().ok(),
        resource: resource.parse().ok(),
    };
    for (filter, passes) in [
        (Filter::default(), [true, true]),
        (filter(Some(EventType::Moved), "", ""), [false, true]),
        (filter(None, "m", ""), [true, true]),
        (filter(None, "n", ""), [false, false]),
        (filter(None, "m", "r"), [true, true]),
        (filter(None, "m", "another"), [false, false]),
    ] {
        let passed = [&event, &moved].map(|event| filter.passes(event));
        assert_eq!(passed, passes, "{filter:?}");
    }
}
