//! What makers say of their devices.

/// Rates of a device that nobody can exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Published {
    /// Part of the name that the driver reports; the first that fits counts.
    name: &'static str,
    /// Bytes a second between the device and its memory, in TB/s.
    pub(super) memory_tb_s: f64,
    /// Operations a second on bytes in tensor cores, dense, in 10^12; a multiplication with an addition is two.
    int8_tops: f64,
}

/// From NVIDIA's data sheets of H100, H200, A100, L40S and L4 (nvidia.com/en-us/data-center), versions of 2023 and 2024; where
/// these give a rate with sparsity, half of it.
const PUBLISHED: [Published; 11] = [
    Published { name: "H200 NVL", memory_tb_s: 4.8, int8_tops: 1670.5 },
    Published { name: "H200", memory_tb_s: 4.8, int8_tops: 1979.0 },
    Published { name: "H100 NVL", memory_tb_s: 3.9, int8_tops: 1670.5 },
    Published { name: "H100 PCIe", memory_tb_s: 2.0, int8_tops: 1513.0 },
    Published { name: "H100 80GB HBM3", memory_tb_s: 3.35, int8_tops: 1979.0 },
    Published { name: "A100-SXM4-80GB", memory_tb_s: 2.039, int8_tops: 624.0 },
    Published { name: "A100 80GB PCIe", memory_tb_s: 1.935, int8_tops: 624.0 },
    Published { name: "A100-SXM4-40GB", memory_tb_s: 1.555, int8_tops: 624.0 },
    Published { name: "A100-PCIE-40GB", memory_tb_s: 1.555, int8_tops: 624.0 },
    Published { name: "L40S", memory_tb_s: 0.864, int8_tops: 733.0 },
    Published { name: "NVIDIA L4", memory_tb_s: 0.3, int8_tops: 242.5 },
];

/// Products of 8-bit limbs in the low half of a product of two 64-bit numbers: Σ (8 − i).
const LIMB_PRODUCTS: f64 = 36.0;

impl Published {
    /// What is known of a device by its name.
    pub(super) fn of(device: &str) -> Option<Published> {
        PUBLISHED.into_iter().find(|p| device.contains(p.name))
    }

    /// Products in the ring, in 10^12 a second, if tensor cores do nothing else.
    pub(super) fn ring_tmac_s(&self) -> f64 {
        self.int8_tops / 2.0 / LIMB_PRODUCTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_the_names_that_drivers_report() {
        let rate = |name: &str| Published::of(name).map(|p| p.memory_tb_s);
        for (name, expected) in [
            ("NVIDIA H100 80GB HBM3", Some(3.35)),
            ("NVIDIA H200", Some(4.8)),
            ("NVIDIA H200 NVL", Some(4.8)),
            ("NVIDIA A100-SXM4-80GB", Some(2.039)),
            ("NVIDIA L4", Some(0.3)),
            ("NVIDIA L40S", Some(0.864)),
            ("NVIDIA GeForce RTX 2080", None),
            ("cpu (avx512, 2 threads)", None),
        ] {
            assert_eq!(rate(name), expected, "{name}");
        }
        // 36 byte products, two operations each: 989.5 / 36.
        assert!((Published::of("NVIDIA H200").unwrap().ring_tmac_s() - 27.49).abs() < 0.01);
    }
}
