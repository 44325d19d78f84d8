//! Frames on a connection: two bytes of length, then as many bytes. An empty frame asks whether the other side is there, and answers.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{notice::MAX_BYTES, refused::Refused};

/// How long a frame may take that was begun, to be read or to be written.
const FRAME_WITHIN: Duration = Duration::from_secs(5);

/// Why no frame came.
#[derive(Debug)]
pub(super) enum Missing {
    /// The connection ended.
    Ended,
    /// It must end.
    Refused(Refused),
}

/// The next frame, which must begin within `patience`. It takes no more room than it is allowed to.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<Vec<u8>, Missing> {
    let slow = |_| Missing::Refused(Refused::TooSlow);
    let ended = |_| Missing::Ended;
    let first = timeout(patience, stream.read_u8()).await.map_err(slow)?.map_err(ended)?;
    let rest = async {
        let second = stream.read_u8().await.map_err(ended)?;
        let length = usize::from(u16::from_be_bytes([first, second]));
        if length > MAX_BYTES {
            return Err(Missing::Refused(Refused::Oversized));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.map_err(ended)?;
        Ok(bytes)
    };
    timeout(FRAME_WITHIN, rest).await.map_err(slow)?
}

/// Writes a frame; no notice and no answer is longer than one can be.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Missing> {
    let length = u16::try_from(bytes.len()).map_err(|_| Missing::Refused(Refused::Oversized))?;
    let all = async {
        stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
        stream.flush().await
    };
    match timeout(FRAME_WITHIN, all).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Missing::Ended),
        Err(_) => Err(Missing::Refused(Refused::TooSlow)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]

    use proptest::prelude::*;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn frames_are_read_as_written_and_long_or_slow_ones_are_refused() {
        run(async {
            let (mut near, mut far) = tokio::io::duplex(4_096);
            for bytes in [&b""[..], b"taken", &[7; MAX_BYTES]] {
                write(&mut near, bytes).await.unwrap();
                assert_eq!(read(&mut far, FRAME_WITHIN).await.unwrap(), bytes);
            }
            near.write_u16(MAX_BYTES as u16 + 1).await.unwrap();
            let long = read(&mut far, FRAME_WITHIN).await;
            assert!(matches!(long, Err(Missing::Refused(Refused::Oversized))), "{long:?}");
            let slow = read(&mut far, Duration::from_millis(5)).await;
            assert!(matches!(slow, Err(Missing::Refused(Refused::TooSlow))), "{slow:?}");
            drop(near);
            assert!(matches!(read(&mut far, FRAME_WITHIN).await, Err(Missing::Ended)));
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
            run(async {
                let mut rest = &bytes[..];
                while let Ok(frame) = read(&mut rest, FRAME_WITHIN).await {
                    assert!(frame.len() <= MAX_BYTES);
                }
            });
        }
    }
}
