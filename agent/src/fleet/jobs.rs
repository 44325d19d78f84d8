//! AWS IoT Jobs as the second way to bring a policy: a job's document names version, hash and address, as the shadow does. Pure.
//!
//! A job is ended with what became of its policy; one that is about anything else is rejected.

use serde::Deserialize;
use serde_json::json;

use super::shadow::Desired;

/// Largest message about a job that is read, in bytes: its document may have 32 KB.
const MAX_MESSAGE: usize = 48 << 10;
/// Longest value among the details of a status, in characters.
const MAX_DETAIL: usize = 1_024;

/// The execution that is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// The policy that it brings; nothing if it is about something else.
    pub desired: Option<Desired>,
}

/// How an execution ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The policy is in force.
    Succeeded,
    /// It could not be fetched or put in force.
    Failed,
    /// It is none that this gateway takes.
    Rejected,
}

impl Ending {
    const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
        }
    }
}

/// Reads what the service says is next; nothing if nothing is, or it cannot be understood.
pub fn next(message: &[u8]) -> Option<Job> {
    #[derive(Deserialize)]
    struct Next {
        execution: Execution,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Execution {
        job_id: String,
        #[serde(default)]
        job_document: serde_json::Value,
    }
    if message.len() > MAX_MESSAGE {
        return None;
    }
    let Execution { job_id: id, job_document } = serde_json::from_slice::<Next>(message).ok()?.execution;
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if id.is_empty() || id.len() > 64 || !id.bytes().all(is_sound) {
        return None;
    }
    let policy = job_document.get("policy").cloned().unwrap_or_default();
    let desired = serde_json::from_value::<Desired>(policy).ok().filter(Desired::is_sound);
    Some(Job { id, desired })
}

/// The message that ends an execution, and why.
pub fn update(ending: Ending, version: Option<u64>, detail: &str) -> String {
    let in_force = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let mut details = json!({ "in_force": in_force });
    // The service takes neither empty values nor control characters.
    let detail = detail[..detail.floor_char_boundary(MAX_DETAIL)].replace(char::is_control, " ");
    if !detail.is_empty() {
        details["detail"] = detail.into();
    }
    json!({ "status": ending.word(), "statusDetails": details }).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a job that is not read is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_names_a_policy_or_is_about_something_else() {
        let hash = "ab".repeat(32);
        let text = format!(
            r#"{{"timestamp":1,"execution":{{"jobId":"to-7","status":"QUEUED","versionNumber":1,
            "jobDocument":{{"policy":{{"version":7,"sha256":"{hash}","url":"https://a/b"}}}}}}}}"#
        );
        let job = next(text.as_bytes()).unwrap();
        assert_eq!((job.id.as_str(), job.desired.unwrap().version), ("to-7", 7));
        let other =
            next(br#"{"execution":{"jobId":"reboot","jobDocument":{"operation":"reboot"}}}"#).unwrap();
        assert_eq!(other.desired, None);
        assert_eq!(next(text.replace("ab", "zz").as_bytes()).unwrap().desired, None, "no hash");
        // Nothing is next, and an id that would lead to another topic.
        for none in ["{}", r#"{"execution":{}}"#, r#"{"execution":{"jobId":"a/../b","jobDocument":{}}}"#] {
            assert_eq!(next(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_detail_is_what_the_service_takes() {
        let update = update(Ending::Rejected, None, &"ä".repeat(2_000));
        let update: serde_json::Value = serde_json::from_str(&update).unwrap();
        assert_eq!(update["status"], "REJECTED");
        assert_eq!(update["statusDetails"]["detail"].as_str().unwrap().len(), MAX_DETAIL);
        let plain = super::update(Ending::Succeeded, Some(7), "");
        assert_eq!(plain, r#"{"status":"SUCCEEDED","statusDetails":{"in_force":"7"}}"#);
        assert!(super::update(Ending::Failed, None, "a\nb").contains("a b"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), id in ".{0,70}") {
            let _ = next(&bytes);
            let text = json!({ "execution": { "jobId": id, "jobDocument": { "policy": 1 } } }).to_string();
            prop_assert!(next(text.as_bytes()).is_none_or(|job| !job.id.contains(['/', '+', '#'])));
        }
    }
}
