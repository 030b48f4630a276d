//! What bytes go over.

use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that bytes go over: TLS on TCP, or TCP alone where that was asked for.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}
