//! Files: uploaded by a form, listed, described, downloaded, deleted.

use bytes::Bytes;
use serde_json::{Value, json};

use super::multipart::parts;
use super::objects::{File, Owner, keep, page};
use super::{Visit, check_version};
use crate::engine::Engine;
use crate::reply::Reply;

/// Where they are.
pub(super) const PATH: &str = "/v1/files";

impl Engine {
    pub(super) fn files(&mut self, visit: &Visit<'_>, owner: Owner) -> Reply {
        if let Err(said) = check_version(&self.settings, visit.call) {
            return visit.invalid(&said);
        }
        let rest = visit.call.path()[PATH.len()..].trim_start_matches('/');
        let (id, verb) = rest.split_once('/').map_or((rest, ""), |(id, verb)| (id, verb));
        let downloadable = self.settings.objects.uploads_downloadable;
        let found = |file: &&File| file.id == id && file.owner == owner;
        match (visit.call.method, id, verb) {
            ("POST", "", "") => self.upload(visit, owner),
            ("GET", "", "") => {
                let mut own: Vec<&File> =
                    self.objects.files.iter().filter(|file| file.owner == owner).collect();
                own.reverse();
                match page(visit.call, &own, |file| &file.id, |file| shown(file, downloadable)) {
                    Ok(page) => visit.json(&page),
                    Err(said) => visit.invalid(&said),
                }
            }
            ("GET" | "DELETE", _, "" | "content") => match self.objects.files.iter().find(found).cloned() {
                None => visit.error(404, "not_found_error", &format!("no file {id} is here")),
                Some(file) => self.on_file(visit, &file, verb),
            },
            _ => visit.not_allowed(),
        }
    }

    fn on_file(&mut self, visit: &Visit<'_>, file: &File, verb: &str) -> Reply {
        let downloadable = self.settings.objects.uploads_downloadable;
        match (visit.call.method, verb) {
            ("GET", "") => visit.json(&shown(file, downloadable)),
            ("GET", "content") if downloadable => {
                // The type is the client's own word, and no constant.
                let mut reply = Reply::new(200, "application/octet-stream", file.content.clone(), visit.now);
                reply.headers.push(("request-id", visit.id.clone().into()));
                reply
            }
            ("GET", "content") => visit.invalid("this file was uploaded and cannot be downloaded"),
            ("DELETE", "") => {
                self.objects.files.retain(|other| other.id != file.id);
                visit.json(&json!({"id": file.id, "type": "file_deleted"}))
            }
            _ => visit.not_allowed(),
        }
    }

    fn upload(&mut self, visit: &Visit<'_>, owner: Owner) -> Reply {
        let content_type = visit.call.header("content-type").unwrap_or_default();
        if visit.call.media_type().as_deref() != Some("multipart/form-data") {
            return visit.invalid("content-type: multipart/form-data is required");
        }
        let parts = match parts(content_type, visit.call.body) {
            Ok(parts) => parts,
            Err(said) => return visit.invalid(said),
        };
        let Some(part) = parts.into_iter().find(|part| part.name == "file") else {
            return visit.invalid("file: Field required");
        };
        let name = part.filename.as_deref().and_then(|name| name.rsplit(['/', '\\']).next());
        let file = File {
            id: visit.named("file_"),
            owner,
            created_at: visit.now,
            name: name.filter(|name| !name.is_empty()).unwrap_or("unnamed").to_owned(),
            mime_type: part.content_type.unwrap_or_else(|| "application/octet-stream".into()),
            content: Bytes::copy_from_slice(part.content),
        };
        let rules = self.settings.objects;
        let reply = visit.json(&shown(&file, rules.uploads_downloadable));
        keep(&mut self.objects.files, file, rules.kept);
        reply
    }
}

fn shown(file: &File, downloadable: bool) -> Value {
    json!({
        "id": file.id,
        "type": "file",
        "filename": file.name,
        "mime_type": file.mime_type,
        "size_bytes": file.content.len(),
        "created_at": file.created_at,
        "downloadable": downloadable,
        "expires_at": null,
    })
}
