//! What the file says of traces, in a build that can export them.

use super::*;

#[test]
fn traces_are_off_until_somebody_says_where_to() {
    assert_eq!(sound("").settings.traces, None);
    assert_eq!(sound("[telemetry]\nsample_percent = 5\n").settings.traces, None);
    let given =
        sound("[telemetry]\notlp_endpoint = \"https://collector.example.org/otlp/\"\nsample_percent = 5\n");
    let traces = given.settings.traces.unwrap();
    assert_eq!((traces.endpoint.as_str(), traces.sample_percent), ("https://collector.example.org/otlp/", 5));
    for plain in ["http://127.0.0.1:4318", "http://localhost:4318", "http://[::1]:4318"] {
        let traces = sound(&format!("[telemetry]\notlp_endpoint = {plain:?}\n")).settings.traces.unwrap();
        assert_eq!(traces.sample_percent, 100);
    }
    let text = "[telemetry]\notlp_endpoint = \"http://collector:4318\"\nallow_insecure = true\n";
    assert!(sound(text).settings.traces.is_some());
}

#[test]
fn an_endpoint_that_will_not_do_is_refused_without_being_repeated() {
    for (endpoint, says) in [
        ("collector:4318", "must be the web address of a collector"),
        ("https://user:secret@collector.example.org", "must be the web address of a collector"),
        ("https://collector.example.org/?key=secret", "must be the web address of a collector"),
        ("http://collector:4318", "is plain http"),
    ] {
        let faults = load_from(&format!("[telemetry]\notlp_endpoint = {endpoint:?}\n"), &[]).unwrap_err();
        let fault = faults.iter().find(|fault| fault.severity == Severity::Error).unwrap();
        assert!(fault.message.contains(says) && fault.line == Some(2), "{fault}");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    assert!(load_from("[telemetry]\nsample_percent = 101\n", &[]).is_err());
}
