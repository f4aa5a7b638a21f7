# Builds, inside the lab's userland, the test card's driver for L2 from /lab/testcard.c, and installs it for modprobe.
kernel=$(ls /lib/modules)
build=/lab/card-driver
rm -rf "$build"
mkdir "$build"
mv /lab/testcard.c "$build/"
echo 'obj-m := testcard.o' > "$build/Kbuild"
make -s -C "/lib/modules/$kernel/build" M="$build" CONFIG_DEBUG_INFO_BTF_MODULES= modules
strip -g "$build/testcard.ko"
mv "$build/testcard.ko" "/lib/modules/$kernel/updates/"
depmod "$kernel"
rm -rf "$build"
