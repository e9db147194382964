// What a voice's controls and those of the whole instrument have in common: an address, and the values heard last.
// The methods that are named after controls are generated: StreamerControls.sc.
StreamerControlled {
	var <streamer, <address, values;

	prInit { |argStreamer, argAddress|
		streamer = argStreamer;
		address = argAddress;
		values = IdentityDictionary.new;
	}

	// The value heard last; nil before any was.
	get { |control| ^values[control] }

	// Several at one moment: set(\temperature, 0.8, \gain, 0.5).
	set { |... pairs| this.send("set", *pairs) }

	normalized { |control, x| this.send(control ++ "/normalized", x) }

	ramp { |control, value, seconds| this.send(control ++ "/ramp", value, seconds) }

	// Straight lines from level to level of an Env; its curves are not used.
	env { |control, env|
		this.send(control ++ "/env", env.levels[0], *[env.times, env.levels.drop(1)].flop.flat)
	}

	drift { |control, depth, period = 10| this.send(control ++ "/drift", depth, period) }

	send { |command ... arguments| streamer.sendMsg("%/%".format(address, command), *arguments) }

	prSwitch { |control| ^values[control] !? (_ > 0) }

	prChanged { |control, value|
		if(this.class.controls.includes(control)) {
			values[control] = value;
			streamer.onChange.value(this, control, value);
		}
	}
}

// One voice, by its number; made by Streamer:voice and Streamer:addVoice.
StreamerVoice : StreamerControlled {
	var <number, <name, <meters;

	*new { |streamer, number|
		^super.new.prInit(streamer, "/streamer/voice/%".format(number)).prInitVoice(number)
	}

	prInitVoice { |argNumber|
		number = argNumber;
		meters = ();
	}

	pause { this.play = false }

	resume { this.play = true }

	remove { this.send("remove") }

	// From a file in the sounds folder, or from what the microphone heard.
	prime { |source = \input, seconds| this.send("prime", *[source, seconds].reject(_.isNil)) }

	continueFromHere { this.send("continue") }

	saveBookmark { |name| streamer.saveBookmark(name, this) }

	recallBookmark { |name| streamer.recallBookmark(name, this) }

	printOn { |stream| stream << "StreamerVoice(" << number << ")" }

	prRename { |argName| name = argName.asSymbol }

	prHear { |what, arguments|
		if(what == \meters) {
			meters = Streamer.prMeters(arguments);
			streamer.onMeters.value(this, meters);
		} {
			this.prChanged(what, arguments[0]);
		}
	}
}

// A streamer process: the controls of the whole, the voices, and all that is not a control.
Streamer : StreamerControlled {
	classvar <>program = "streamer";
	classvar <>default;

	var <addr, <>latency = 0.2;
	var <>onChange, <>onMeters, <connected = false, <status, <meters;
	var voices, rate = 10, pid, watch, hear, lastHeard = -inf;
	var whenConnected, asked, lists, bundle;

	*initClass {
		StartUp.add { Event.addEventType(\streamer, { this.prPlayEvent(currentEnvironment) }) }
	}

	// Connects to a streamer that runs, or as soon as one does, and again after it was started anew.
	*attach { |host = "127.0.0.1", port = 7770, action|
		^super.new.prInit(nil, "/streamer").prInitStreamer(NetAddr(host, port), action)
	}

	// Starts a process of its own, and connects to it.
	*start { |model, options, port = 7770, action|
		^this.attach("127.0.0.1", port, action).prStart([model] ++ options)
	}

	prInitStreamer { |argAddr, action|
		streamer = this;
		addr = argAddr;
		whenConnected = action;
		voices = IdentityDictionary.new;
		asked = IdentityDictionary.new;
		lists = IdentityDictionary.new;
		status = ();
		meters = ();
		default = this;
		hear = { |message, time, from| if(from == addr) { this.prHear(message) } };
		thisProcess.addOSCRecvFunc(hear);
		CmdPeriod.add(this);
		ShutDown.add(this);
		watch = SkipJack({ this.prWatch }, 0.5, name: "streamer");
	}

	prStart { |arguments|
		var command = [program, "play"] ++ arguments ++ ["--osc-port", addr.port];
		pid = command.collect(_.asString).unixCmd({ |code|
			pid = nil;
			connected = false;
			"streamer ended with code %".format(code).postln;
		});
	}

	// Ends the connection, and the process if `start` began it.
	free {
		this.send("unsubscribe");
		watch.stop;
		thisProcess.removeOSCRecvFunc(hear);
		CmdPeriod.remove(this);
		ShutDown.remove(this);
		if(default === this) { default = nil };
		this.doOnShutDown;
	}

	doOnShutDown { pid !? { "kill -INT %".format(pid).systemCmd } }

	// ---- voices

	voice { |id = 1|
		if(id.isNumber.not) {
			^voices.detect { |voice| voice.name == id.asSymbol } ?? { StreamerVoice(this, id) }
		};
		if(voices[id].isNil) { voices[id] = StreamerVoice(this, id) };
		^voices[id]
	}

	// All voices at once.
	all { ^StreamerVoice(this, "*") }

	voices { ^voices.values.asArray.sort { |one, other| one.number < other.number } }

	addVoice { |model, name = "", action|
		this.prAsk('voice/added', action, "voice/add", model, name)
	}

	// ---- what is there

	models { |action| this.prAsk('models.done', action, "models") }

	bookmarks { |action| this.prAsk('bookmarks.done', action, "bookmarks") }

	saveBookmark { |name, voice| this.send("bookmark/save", name, *this.prNumber(voice)) }

	recallBookmark { |name, voice| this.send("bookmark/recall", name, *this.prNumber(voice)) }

	// ---- what is heard back

	// Meters so many times a second, or once: where nothing comes for two seconds, streamer is gone.
	subscribe { |argRate = 10|
		rate = argRate.max(1);
		this.send("subscribe", NetAddr.langPort, rate);
	}

	// When all that was asked for before is done: does the action, or without one lets this Routine wait.
	sync { |action|
		var id = UniqueID.next, condition;
		if(action.isNil) {
			condition = Condition.new;
			action = { condition.unhang };
		};
		this.prAsk("synced/%".format(id).asSymbol, action, "sync", id);
		condition !? { condition.hang };
	}

	// ---- silence

	panic { this.send("panic") }

	clearSched { this.send("clearSched") }

	cmdPeriod { this.panic }

	// ---- sending

	// All that the function sends goes in one bundle, timetagged `latency` seconds ahead.
	bind { |function|
		var messages;
		bundle = [];
		protect { function.value(this) } {
			messages = bundle;
			bundle = nil;
		};
		this.sendBundle(latency, *messages);
	}

	sendMsg { |... message|
		if(bundle.isNil) { addr.sendMsg(*message) } { bundle = bundle.add(message) }
	}

	sendBundle { |time ... messages| addr.sendBundle(time, *messages) }

	*prPlayEvent { |event|
		var target = event[\streamer] ? default;
		var own = event.keys;
		var pairs = StreamerVoice.controls.select { |name| own.includes(name) }.collect { |name|
			var value = event[name];
			[name, if(value.isString) { value.asSymbol } { value }]
		};
		var bundle = ([event[\voice] ? 1] ++ pairs.flatten(1)).flop.collect { |row|
			["/streamer/voice/%/set".format(row[0])] ++ row.drop(1)
		};
		if(target.isNil) { Error("no streamer to play on: Streamer.attach or Streamer.start first").throw };
		if(pairs.notEmpty) {
			event[\schedBundleArray].(event[\lag], event[\timingOffset], target, bundle, event[\latency]);
		};
	}

	*prMeters { |arguments| ^().putPairs([[\peak, \rms, \buffer_ms, \realtime_factor, \underruns], arguments].lace) }

	prNumber { |voice| ^if(voice.isNil) { [] } { [if(voice.isNumber) { voice } { voice.number }] } }

	prAsk { |reply, action, command ... arguments|
		asked[reply] = asked[reply].add(action);
		this.send(command, *arguments);
	}

	prAnswer { |reply, value| this.prNext(reply).value(value) }

	// The action that waits for a reply for longest.
	prNext { |reply|
		var actions = asked.removeAt(reply);
		if(actions.size > 1) { asked[reply] = actions.drop(1) };
		^actions !? (_.first)
	}

	prWatch {
		if(Main.elapsedTime - lastHeard > 2) {
			connected = false;
			this.subscribe(rate);
		}
	}

	prHear { |message|
		var words = message[0].asString.split($/).drop(1);
		if(words[0] != "streamer") { ^this };
		lastHeard = Main.elapsedTime;
		if(words[1] == "voice" and: { words[2] != "added" }) {
			this.voice(words[2].asInteger).prHear(words.drop(3).join("/").asSymbol, message.drop(1));
		} {
			this.prHearOwn(words.drop(1).join("/").asSymbol, message.drop(1));
		};
	}

	prHearOwn { |what, arguments|
		switch(what)
			{ \meters } {
				meters = Streamer.prMeters(arguments);
				onMeters.value(this, meters);
			}
			{ 'status.reply' } { status = ().putPairs(arguments) }
			{ 'voices.reply' } { this.prVoices(arguments) }
			{ 'voice/added' } { this.prAnswer(what, this.voice(arguments[0]).prRename(arguments[1])) }
			{ 'models.reply' } { lists[\models] = lists[\models].add(arguments[0]) }
			{ 'bookmarks.reply' } { lists[\bookmarks] = lists[\bookmarks].add(arguments[0]) }
			{ 'models.done' } { this.prAnswer(what, lists.removeAt(\models) ? []) }
			{ 'bookmarks.done' } { this.prAnswer(what, lists.removeAt(\bookmarks) ? []) }
			{ \synced } { this.prAnswer("synced/%".format(arguments[0]).asSymbol, this) }
			{ \listening } { if(arguments[0] > 0) { this.prConnected } }
			{ \error } {
				"streamer: %: %".format(*arguments).warn;
				if(arguments[0] == '/streamer/voice/add') { this.prNext('voice/added') };
			}
			{ this.prChanged(what, arguments[0]) };
	}

	// The values of all controls come after `listening`; only then is there something to work with.
	prConnected {
		if(connected) { ^this };
		this.sync {
			connected = true;
			whenConnected.value(this);
			whenConnected = nil;
		};
	}

	prVoices { |pairs|
		var names = IdentityDictionary.newFrom(pairs);
		voices.keys.do { |number| if(names.includesKey(number).not) { voices.removeAt(number) } };
		names.keysValuesDo { |number, name| this.voice(number).prRename(name) };
	}
}
