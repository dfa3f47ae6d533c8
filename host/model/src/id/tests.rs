use super::*;

#[test]
fn names_are_labels() {
    for good in ["a", "counter", "x-1", "0", &"a".repeat(63)] {
        assert!(good.parse::<ModuleName>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "ä",
        "a/b",
        &"a".repeat(64),
    ] {
        assert!(bad.parse::<ModuleName>().is_err(), "{bad}");
    }
}

#[test]
fn zones_are_words() {
    for good in ["eu-1", "Rack_4", "dc.north", "a", &"A".repeat(63)] {
        assert!(good.parse::<Zone>().is_ok(), "{good}");
    }
    for bad in ["", "rack 4", "a/b", "ä", "a,b", "a=b", &"a".repeat(64)] {
        let error = bad.parse::<Zone>().unwrap_err().to_string();
        assert!(error.starts_with("zone \""), "{error}");
    }
}

#[test]
fn names_may_be_percent_encoded_in_a_url_path() {
    let name: ModuleName = "my-bot".parse().unwrap();
    for segment in ["my-bot", "my%2Dbot", "%6dy-bot"] {
        assert_eq!(ModuleName::from_path_segment(segment), Ok(name.clone()));
    }
    assert!(ModuleName::from_path_segment("my%2Fbot").is_err());
    assert!(ModuleName::from_path_segment("%ff").is_err());
}

#[test]
fn resource_ids_are_bounded_text_without_control_characters() {
    assert_eq!("".parse::<ResourceId>(), Err(InvalidResourceId::Empty));
    let long = "é".repeat(257);
    assert_eq!(
        long.parse::<ResourceId>(),
        Err(InvalidResourceId::TooLong { len: 514 })
    );
    assert!("é".repeat(256).parse::<ResourceId>().is_ok());
    assert_eq!(
        "a\u{7f}b".parse::<ResourceId>(),
        Err(InvalidResourceId::Control { code: 0x7f, at: 1 })
    );
    assert!("a\u{85}".parse::<ResourceId>().is_err());
    assert!("日本/ ?#%".parse::<ResourceId>().is_ok());
}

#[test]
fn what_does_not_show_in_an_id_is_shown_by_its_code() {
    for (text, shown) in [
        ("a/b ü 日本", "a/b ü 日本"),
        ("ada\u{202e}gpj", "ada\\u{202e}gpj"),
        ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
        ("a\u{2028}b", "a\\u{2028}b"),
    ] {
        let id: ResourceId = text.parse().unwrap();
        assert_eq!(id.to_string(), shown);
        // What programs read stays as it is.
        assert_eq!(id.as_str(), text);
        assert_eq!(serde_json::to_value(&id).unwrap(), text);
    }
}

#[test]
fn any_id_survives_a_url_path() {
    for text in ["a/b", "..", "100%", "x y", "日本", "a?b#c", "%2F"] {
        let id: ResourceId = text.parse().unwrap();
        let segment = id.to_path_segment();
        assert!(!segment.contains(['/', '?', '#', ' ']), "{segment}");
        assert_eq!(ResourceId::from_path_segment(&segment), Ok(id));
    }
    assert_eq!(
        ResourceId::from_path_segment("%ff"),
        Err(InvalidResourceId::NotUtf8)
    );
    assert_eq!(
        ResourceId::from_path_segment("a%00"),
        Err(InvalidResourceId::Control { code: 0, at: 1 })
    );
}

#[test]
fn slots_never_change_between_releases() {
    // Stored views depend on it: a change of the hash would give slots to the wrong owners.
    let slots: Vec<u16> = ["", "a", "resource-1"].map(|id| Slot::of(id).0).to_vec();
    assert_eq!(slots, SLOTS_OF_OLD);
}

const SLOTS_OF_OLD: [u16; 3] = [1218, 3615, 4083];
