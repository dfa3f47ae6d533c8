//! Components are compiled in processes of their own, which end with what they took.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use holdfast_tests::{Cluster, Probe};

use crate::BIN;

/// What a node starts to compile a component with.
fn compile(component: &[u8], memory_bytes_max: u64) -> Output {
    let mut child = Command::new(BIN)
        .args(["compile-component", &memory_bytes_max.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let mut sent = (component.len() as u64).to_le_bytes().to_vec();
    sent.extend_from_slice(component);
    // One that has ended says why.
    let _ = stdin.write_all(&sent);
    // Open until it is done: else nobody waits any more.
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    output
}

/// The smallest component there is.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

#[test]
fn a_compilers_process_answers_with_code_or_with_what_is_wrong() {
    let output = compile(EMPTY, 1 << 30);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.starts_with(b"\x7fELF"));
    let output = compile(&[EMPTY, b"\xff\xff"].concat(), 1 << 30);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("at offset"), "{said}");
}

#[test]
fn a_compilers_process_ends_when_it_takes_too_much_memory() {
    // Less than any process has.
    let output = compile(EMPTY, 1 << 20);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn a_node_maps_the_code_that_was_compiled_for_it() {
    let cluster = Cluster::builder(BIN).alone().start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let maps = fs::read_to_string(format!("/proc/{}/maps", cluster.pid(0)));
    let maps = maps.expect("the node runs");
    assert!(maps.contains("-mapped.cwasm"), "{maps}");
}
