/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PVH entry of the bare guest: into long mode and then into ring 3, where all of its work is done.
 *
 * Ring 0 is kept to a few dozen instructions since some KVMs interpret it. Tables are laid out at link time for the
 * same reason. The I/O permission bitmap in the TSS is all zero, which lets ring 3 use every port.
 */
#define SEL_CODE0 0x08
#define SEL_DATA0 0x10
#define SEL_DATA3 0x18
#define SEL_CODE3 0x20
#define SEL_TSS   0x28

#define VEC_MSI   0x40 /* .. 0x4f: MSI-X vectors */
#define LAPIC_EOI 0xfee000b0

	.section .note.pvh, "a"
	.balign 4
	.long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad start

	.text
	.code32
	.globl start
start:
	cld
	movl %ebx, start_info
	movl $stack0_top, %esp
	lgdtl gdt_pointer
	movl %cr4, %eax
	orl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax /* LME */
	wrmsr
	movl %cr0, %eax
	orl $0x80000001, %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE0, $long_mode

	.code64
long_mode:
	movl $SEL_DATA0, %eax
	movl %eax, %ss
	movl $SEL_DATA3 | 3, %eax
	movl %eax, %ds
	movl %eax, %es
	/* The TSS descriptor's base; the TSS lies below 16 MiB. */
	movl $tss, %eax
	movw %ax, gdt + SEL_TSS + 2
	shrl $16, %eax
	movb %al, gdt + SEL_TSS + 4
	movb $0xff, %al
	outb %al, $0x21
	outb %al, $0xa1
	/* Interrupt gates: exceptions, then MSI-X vectors. */
	xorl %ecx, %ecx
	movl $exception_entries, %eax
1:	call set_gate
	addl $16, %eax
	incl %ecx
	cmpl $32, %ecx
	jb 1b
	movl $VEC_MSI, %ecx
	movl $msi_entries, %eax
2:	call set_gate
	addl $32, %eax
	incl %ecx
	cmpl $VEC_MSI + 16, %ecx
	jb 2b
	movl $13, %ecx
	movl $protection_entry, %eax
	call set_gate
	lidt idt_pointer
	movl $SEL_TSS, %eax
	ltr %ax
	pushq $SEL_DATA3 | 3
	pushq $stack3_top - 8
	pushq $0x202
	pushq $SEL_CODE3 | 3
	pushq $main_entry
	iretq

/* Gate ecx of the IDT leads to the code at eax; clobbers edx. */
set_gate:
	movl %ecx, %edx
	shll $4, %edx
	movw %ax, idt(%edx)
	movw $SEL_CODE0, idt + 2(%edx)
	movw $0x8e00, idt + 4(%edx)
	pushq %rax
	shrl $16, %eax
	movw %ax, idt + 6(%edx)
	popq %rax
	ret

	.balign 16
exception_entries:
	.set vector, 0
	.rept 32
	.balign 16
	movb $vector, %al
	jmp exception
	.set vector, vector + 1
	.endr

/* An exception ends the guest: exit value 0x60 + vector. */
exception:
	addb $0x60, %al
	outb %al, $0xf4
	hlt
	jmp exception

	.balign 32
msi_entries:
	.set vector, 0
	.rept 16
	.balign 32
	incl irq_count + vector * 4
	pushq %rax
	movl $LAPIC_EOI, %eax
	movl $0, (%rax)
	popq %rax
	iretq
	.set vector, vector + 1
	.endr

/*
 * General protection. A hlt in ring 3 asks to sleep until *rdi is no longer esi: an exception is the one way into ring
 * 0 that every KVM knows, where some lack int and syscall. Interrupts are off on entry, and sti takes effect after hlt
 * began, so none is missed.
 */
	.balign 16
protection_entry:
	pushq %rax
	movq 16(%rsp), %rax
	cmpb $0xf4, (%rax)
	popq %rax
	jne 2f
	addq $8, %rsp
	incq (%rsp) /* past the hlt */
	cmpl %esi, (%rdi)
	jne 1f
	sti
	hlt
	cli
1:	iretq
2:	movb $13, %al
	jmp exception

main_entry:
	xorl %ebp, %ebp
	movl start_info, %edi
	call main
	ud2

	.data
	.balign 4096
pml4:
	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:
	.quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
	.fill 508, 8, 0
pd:
	.set page, 0
	.rept 2048
	.quad page * 0x200000 + 0x87 /* present, writable, user, 2 MiB */
	.set page, page + 1
	.endr

	.balign 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* ring 0 code, 64-bit */
	.quad 0x00cf93000000ffff /* ring 0 data */
	.quad 0x00cff3000000ffff /* ring 3 data */
	.quad 0x00affb000000ffff /* ring 3 code, 64-bit */
	.word tss_end - tss - 1, 0
	.byte 0, 0x89, 0, 0
	.quad 0
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
idt_pointer:
	.word 256 * 16 - 1
	.quad idt

	.balign 16
tss:
	.long 0
	.quad stack0_top, 0, 0
	.quad 0
	.quad stack0_top, 0, 0, 0, 0, 0, 0
	.quad 0
	.word 0, bitmap - tss
bitmap:
	.fill 8192, 1, 0
	.byte 0xff
tss_end:

	.globl irq_count
	.balign 64
irq_count:
	.fill 16, 4, 0
start_info:
	.long 0

	.globl idt
	.bss
	.balign 4096
idt:
	.skip 4096
	.skip 8192
stack0_top:
	.skip 65536
stack3_top:
	.section .note.GNU-stack, "", @progbits
