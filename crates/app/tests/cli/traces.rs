//! Traces, as a collector gets them of the binary: of a build that exports them, and of one that does not.

#[cfg(not(feature = "otel"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_exports_no_traces_says_so() {
    let standin = crate::support::standin().await;
    let home = crate::support::Home::new(&standin);
    let check = |endpoint: &str| {
        home.command(&["config", "check"])
            .env("EVERGRANT_TELEMETRY__OTLP_ENDPOINT", endpoint)
            .output()
            .unwrap()
    };
    let output = check("http://127.0.0.1:4318");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("`--features otel`"), "{output:?}");
}

#[cfg(feature = "otel")]
pub(crate) use exporting::Collector;

#[cfg(feature = "otel")]
mod exporting {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, channel};

    use evergrant_standin::StandIn;
    use rustix::process::Signal;

    use crate::gateway::{caller_key, curl};
    use crate::serving::Server;
    use crate::support::{Home, shown, standin_settings};

    /// A collector that keeps whatever it is sent.
    pub(crate) struct Collector(Receiver<Vec<u8>>);

    impl Collector {
        /// The server of this command exports to it.
        pub(crate) fn of(command: &mut Command) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            command.env("EVERGRANT_TELEMETRY__OTLP_ENDPOINT", endpoint);
            let (tell, got) = channel();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let mut reader = BufReader::new(stream);
                    let (mut head, mut length) = (String::new(), 0);
                    while !head.ends_with("\r\n\r\n") {
                        let from = head.len();
                        reader.read_line(&mut head).unwrap();
                        let field = head[from..].trim_end();
                        if let Some(value) = field.strip_prefix("content-length: ") {
                            length = value.parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                    let _ = tell.send([head.into_bytes(), body].concat());
                }
            });
            Self(got)
        }

        /// All that came so far.
        pub(crate) fn got(&self) -> Vec<u8> {
            self.0.try_iter().flatten().collect()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_and_exchanges_are_exported_before_it_ends() {
        let mut settings = standin_settings();
        settings.lives.access_secs = 4;
        let standin = StandIn::start(settings).await.unwrap();
        let home = Home::new(&standin);
        home.log_in(&standin);
        let key = caller_key(&home);
        let mut command = home.command(&["serve"]);
        let collector =
            Collector::of(command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=of-the-test"));
        let mut server = Server::start(&mut command);
        let url = format!("{}/v1/anthropic/v1/messages", server.base());
        let body = r#"{"model":"stand-in-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
        let output = curl(&[&url, "-H", &format!("X-CM-API-Key: {key}"), "-d", body]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"message\""), "{}", shown(&output));
        server.line("reason", "renewed");
        server.running.signal(Signal::TERM);
        assert!(server.running.0.wait().unwrap().success());
        let got = String::from_utf8_lossy(&collector.got()).into_owned();
        for part in ["x-collector-key: of-the-test", "POST /v1/messages", "exchange", "evergrant.generation"]
        {
            assert!(got.contains(part), "{part} is missing in {got:?}");
        }
    }
}
