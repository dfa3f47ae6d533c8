use super::*;

fn head() -> Head {
    Head {
        format: FORMAT,
        holdfast: "0.1.0".to_owned(),
        exported_at_ms: 1_795_399_035_695,
        cluster: "734839b4-8ff8-4d4c-81a8-21d6853ccfd7".parse().unwrap(),
        cluster_name: "office".parse().unwrap(),
        modules: vec!["counter".parse().unwrap()],
    }
}

fn module(component: &[u8]) -> ModuleHead {
    ModuleHead {
        module: "counter".parse().unwrap(),
        version: 3,
        digest: Digest::of(component),
        size_bytes: component.len() as u64,
        settings: Settings::default(),
    }
}

/// An archive with a component of this length.
fn written(len: usize) -> Vec<u8> {
    let component = vec![7; len];
    let head = module(&component);
    let mut writer = Writer::new(Vec::new(), &self::head()).unwrap();
    writer.module(&head).unwrap();
    writer.component(&head.module, head.size_bytes).unwrap();
    for piece in component.chunks(500) {
        writer.piece(piece).unwrap();
    }
    writer
        .resources(&head.module, 1, b"{\"id\":\"a\",\"spec\":{}}\n")
        .unwrap();
    writer
        .resources(&head.module, 2, b"{\"id\":\"b\",\"spec\":{\"x\":1}}\n{}\n")
        .unwrap();
    writer
        .finish(Foot {
            modules: 1,
            resources: 2,
        })
        .unwrap()
}

fn told(archive: &[u8]) -> (Vec<String>, io::Result<()>) {
    let mut told = Vec::new();
    let done = read(archive, |item| {
        told.push(match item {
            Item::Head(head) => format!("head {:?}", head.modules),
            Item::Module(head) => format!("module {} {}", head.module, head.version),
            Item::Component(bytes) => format!("component {}", bytes.len()),
            Item::Resource(Record { at, content }) => match content {
                Ok(named) => format!("{at} {} {:?}", named.id, named.spec),
                Err(error) => format!("{at} {error}"),
            },
            Item::Foot(foot) => format!("foot {} {}", foot.modules, foot.resources),
        });
        true
    });
    (told, done)
}

#[test]
fn what_is_written_is_read() {
    for len in [1, 511, 512, 513, 2_000] {
        let (told, done) = told(&written(len));
        done.unwrap();
        let component = format!("component {len}");
        let expected = [
            "head [\"counter\"]",
            "module counter 3",
            &component,
            "1 a {}",
            "2 b {\"x\":1}",
            "3 it has no `id`",
            "foot 1 2",
        ];
        assert_eq!(told, expected, "{len}");
    }
}

#[test]
fn the_tools_of_the_system_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    std::fs::write(&path, written(600)).unwrap();
    let mut tar = std::process::Command::new("tar");
    let listed = tar.arg("tf").arg(&path).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout),
        "holdfast-export.json\ncounter/module.json\ncounter/component.wasm\n\
         counter/resources/000001.ndjson\ncounter/resources/000002.ndjson\ncomplete.json\n"
    );
    assert!(listed.stderr.is_empty(), "{listed:?}");
}

#[test]
fn wherever_it_is_cut_off_that_is_said() {
    let whole = written(600);
    // Behind the foot there are only zeros.
    let end = whole.len() - 3 * BLOCK as usize;
    for len in (0..end).step_by(256) {
        let (_, done) = told(&whole[..len]);
        let error = done.expect_err("it is not whole").to_string();
        let says = [
            "is empty",
            "before its end",
            "middle",
            "complete.json",
            "failed",
        ];
        assert!(says.iter().any(|words| error.contains(words)), "{error}");
    }
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    let whole = written(600);
    let at = |needle: &[u8]| {
        let mut windows = whole.windows(needle.len());
        windows.position(|window| window == needle).unwrap()
    };
    let changed = |at: usize, byte: u8| {
        let mut changed = whole.clone();
        changed[at] = byte;
        told(&changed).1.unwrap_err().to_string()
    };
    let damaged = changed(at(&[7, 7, 7, 7]), 8);
    assert!(
        damaged.contains("component of counter is damaged"),
        "{damaged}"
    );
    let format = at(b"\"format\": 1") + "\"format\": ".len();
    let newer = changed(format, b'2');
    assert!(newer.contains("has format 2"), "{newer}");
    let (_, none) = told(b"no archive at all");
    none.unwrap_err();
}
