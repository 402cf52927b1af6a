use super::*;
use crate::memory::FramePool;
use std::sync::atomic::AtomicU64;
pub struct Credits { pub limit: u64, pub settled: Arc<AtomicU64> }
pub struct TcpOptions { pub address: std::net::IpAddr, pub port: u16, pub reuse_port: bool, pub max_connections: usize, pub connection_budget_bytes: usize, pub large_wait_ns: Nanos, pub carry_bytes: usize, pub idle_timeout_ns: Option<Nanos>, pub max_frame_bytes: u32, pub dedup_window_ms: u64, pub run_id: String, pub credits: Credits }
pub struct TcpBackend { large: FramePool, port: u16 }
impl TcpBackend {
    pub fn bind(options: TcpOptions, large: FramePool) -> Result<Self, String> { Ok(Self { large, port: options.port }) }
    pub fn local_port(&self) -> u16 { self.port }
    pub fn large_pool(&self) -> &FramePool { &self.large }
}
impl Backend for TcpBackend {
    fn receive(&mut self, _: &mut Intake, _: State, _: &Cycle) -> usize { 0 }
    fn drained(&self) -> bool { true }
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> { vec![] }
}
