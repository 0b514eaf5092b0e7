//! Callers that call as fast as they are answered.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use polymath_types::Failure;

use super::{
    cases::{Load, Transport},
    failed,
    sample::{Meter, Sample},
};

/// One of several that call at once; it has one call under way.
pub(super) trait Call: Send + 'static {
    /// Makes one call; an answer of the wrong length is a failure.
    fn call(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How long a round takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Calls before that do not count.
    pub(super) warm: Option<Duration>,
    /// Every caller begins calls for this long; each ends the last it has begun.
    pub(super) window: Duration,
}

impl Pace {
    /// Connections are kept, so a quarter of the window warms them enough. A large body over a long line
    /// is warmth of its own.
    pub(super) fn of(window: Duration, load: Load, far: bool) -> Self {
        let warm = !(far && load.request >= 1 << 20);
        Self {
            warm: warm.then_some(window / 4),
            window,
        }
    }
}

type Run = dyn Fn(Load, Pace, Meter) -> BoxFuture<'static, Result<Sample, Failure>> + Send + Sync;

/// One way to call.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) transport: Transport,
    /// What decides how many bytes are under way.
    pub(super) control: String,
    pub(super) run: Box<Run>,
}

impl Side {
    /// `callers` makes as many as the load says.
    pub(super) fn new<C: Call, F>(
        name: &'static str,
        transport: Transport,
        control: impl Into<String>,
        callers: impl Fn(Load) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<C>, Failure>> + Send + 'static,
    {
        Self {
            name,
            transport,
            control: control.into(),
            run: Box::new(move |load, pace, meter| {
                let callers = callers(load);
                async move { drive(callers.await?, load, pace, meter).await }.boxed()
            }),
        }
    }
}

/// One round.
pub(super) async fn drive<C: Call>(
    mut callers: Vec<C>,
    load: Load,
    pace: Pace,
    meter: Meter,
) -> Result<Sample, Failure> {
    if let Some(warm) = pace.warm {
        (callers, _) = together(callers, warm).await?;
    }
    let (begun, before) = (Instant::now(), meter.read());
    let (_, took) = together(callers, pace.window).await?;
    let (elapsed, used) = (begun.elapsed(), meter.read().since(before));
    Ok(Sample::of(load, took, elapsed, used))
}

/// All call until the time is over; what each call took.
async fn together<C: Call>(
    callers: Vec<C>,
    time: Duration,
) -> Result<(Vec<C>, Vec<Duration>), Failure> {
    let begun = Instant::now();
    let calling = callers.into_iter().map(|mut caller| {
        tokio::spawn(async move {
            let mut took = Vec::new();
            loop {
                let call_begun = Instant::now();
                caller.call().await?;
                took.push(call_begun.elapsed());
                if begun.elapsed() >= time {
                    return Ok::<_, Failure>((caller, took));
                }
            }
        })
    });
    let (mut callers, mut took) = (Vec::new(), Vec::new());
    for ended in futures::future::join_all(calling).await {
        let (caller, times) = ended.map_err(|e| failed("a caller", e))??;
        callers.push(caller);
        took.extend(times);
    }
    Ok((callers, took))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use polymath_types::ErrorKind;

    use super::*;

    struct Counting(Arc<AtomicUsize>);

    impl Call for Counting {
        async fn call(&mut self) -> Result<(), Failure> {
            match self.0.fetch_add(1, Relaxed) {
                n if n < 1000 => Ok(()),
                n => Err(Failure::new(ErrorKind::Internal, n.to_string())),
            }
        }
    }

    #[tokio::test]
    async fn every_caller_makes_at_least_one_call_and_a_failed_one_ends_the_round() {
        let made = Arc::new(AtomicUsize::new(0));
        let callers = |n| (0..n).map(|_| Counting(made.clone())).collect::<Vec<_>>();
        let (load, meter) = (Load::echo(128, 3), Meter { allocations: None });
        let once = Pace {
            warm: None,
            window: Duration::ZERO,
        };
        let sample = drive(callers(3), load, once, meter).await.unwrap();
        assert_eq!(made.load(Relaxed), 3);
        assert!(sample.rate > 0.0);
        let long = Pace {
            warm: Some(Duration::ZERO),
            window: Duration::from_secs(3600),
        };
        drive(callers(3), load, long, meter).await.unwrap_err();
        assert!(made.load(Relaxed) > 1000);
    }
}
