# An EFI application that does nothing, in place of a kernel: efi_main returns EFI_SUCCESS.
#
# kernel.efi was made of it with binutils 2.40:
#   as -o kernel.o kernel.S
#   ld -m i386pep --oformat pei-x86-64 --subsystem 10 --entry efi_main --image-base 0 --no-insert-timestamp -s \
#      -o kernel.efi kernel.o
	.section .text
	.globl efi_main
efi_main:
	xorl %eax, %eax
	ret

	.section .data
	.ascii "Coffer's stand-in for a kernel"
