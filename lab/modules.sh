# Builds, inside the lab's userland, the kernel modules that Debian leaves out of its kernel, and installs them beside
# Debian's: modprobe prefers the folder `updates`. Debian sets CONFIG_IOMMUFD and VFIO_NOIOMMU to n, but its kernel
# exports everything these modules need, except one iterator of lib/interval_tree.c, which is compiled in.
kernel=$(ls /lib/modules)
archive=$(ls /usr/src/linux-source-*.tar.xz)
source=/lab/$(basename "$archive" .tar.xz)
build=/lab/modules

rm -rf "$source" "$build"
mkdir -p "$build/iommu/iommufd"
tar -C /lab -xf "$archive" "$(basename "$source")"/{samples/vfio-mdev,drivers/vfio,drivers/iommu/iommufd,drivers/iommu/iommu-priv.h,lib/interval_tree.c}
cp -r "$source/drivers/vfio" "$source/samples/vfio-mdev" "$build/"
cp -r "$source/drivers/iommu/"{iommufd,iommu-priv.h} "$build/iommu/"
{
  echo '#include <linux/compiler.h>'
  echo '#include <linux/interval_tree.h>'
  sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,/^#endif/p' "$source/lib/interval_tree.c"
} > "$build/iommu/iommufd/span.c"
echo 'iommufd-y += span.o' >> "$build/iommu/iommufd/Makefile"

# The headers were configured without these options, so the command line defines what Kconfig would have defined.
on=(CONFIG_IOMMUFD=m CONFIG_VFIO_DEVICE_CDEV=y CONFIG_VFIO_NOIOMMU=y CONFIG_SAMPLE_VFIO_MDEV_{MTTY,MDPY,MDPY_FB,MBOCHS}=m)
off=(CONFIG_{MLX5,PDS,QAT,VIRTIO,HISI_ACC,NVGRACE_GPU}_VFIO_PCI= CONFIG_VFIO_{PLATFORM_BASE,CDX,FSL_MC}= CONFIG_DEBUG_INFO_BTF_MODULES=)
cat > "$build/Kbuild" <<'KBUILD'
subdir-ccflags-y := -DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_INTERVAL_TREE_SPAN_ITER=1 -DCONFIG_VFIO_DEVICE_CDEV=1 -DCONFIG_VFIO_NOIOMMU=1
obj-m := iommu/iommufd/ vfio/ vfio-mdev/
KBUILD
make -s -j"$(nproc)" -C "/lib/modules/$kernel/build" M="$build" "${on[@]}" "${off[@]}" modules

rm -rf "/lib/modules/$kernel/updates"
mkdir "/lib/modules/$kernel/updates"
find "$build" -name '*.ko' -exec mv -t "/lib/modules/$kernel/updates" {} +
strip -g "/lib/modules/$kernel/updates/"*.ko
depmod "$kernel"
rm -rf "$source" "$build"
